"""Sentences and stories of a language: templates, and words with the forms that they may take in them.

A template is a sentence with slots: `{person} sees {colour thing:a}.` A slot names one or several classes of words and,
after a colon, a form. The same name in one text is the same word; `thing2` is another word of the class `thing`. A form
with slashes, `{person:he/she}`, lists the words for each gender; any other form is made by the language's `inflect`.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from omni.synthetic.scene import pick, shuffled

_SLOT = re.compile(r"\{([a-z]+\d*(?: [a-z]+\d*)*)(?::([^{}]*))?\}")
_STORY = 0.3  # share of spoken sentences that belong to a story
_SENTENCES = (5, 6, 7, 8)  # of a document that is not a story
_SHARED = ("person", "person2", "place")  # slots with the same words in all sentences of a document


@dataclass(frozen=True)
class Word:
    """A word of a class.

    Attributes:
        text: Its basic form.
        gender: `m`, `f`, `n`, or empty.
        forms: Its other forms, and marks that the language's grammar reads.
        value: Of a number.
    """

    text: str
    gender: str = ""
    forms: Mapping[str, str] = field(default_factory=dict)
    value: int = 0


@dataclass(frozen=True)
class Slot:
    """A slot of a template.

    Attributes:
        names: Names of its words: a class each, and a number where the text has several of the class.
        form: The form; empty for the basic one.
    """

    names: tuple[str, ...]
    form: str = ""


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language of the world.

    Attributes:
        name: In English.
        voices: Languages of eSpeak NG that speak it.
        genders: The genders in the order of forms with slashes.
        words: Words by class.
        sentences: Templates that stand alone.
        stories: Templates of texts, sentence by sentence.
        inflect: The words of a slot in a form, as one phrase.
        contract: Final spelling of a sentence, such as elision.
    """

    name: str
    voices: tuple[str, ...]
    genders: str
    words: Mapping[str, tuple[Word, ...]]
    sentences: tuple[str, ...]
    stories: tuple[tuple[str, ...], ...]
    inflect: Callable[[Sequence[Word], str], str]
    contract: Callable[[str], str]

    def phrase(self, words: Sequence[Word], form: str) -> str:
        """The words of a slot in a form.

        Args:
            words: The slot's words; the last one is the noun, if there is one.
            form: See the head of this file.
        """
        if "/" in form:
            return form.split("/")[self.genders.index(words[-1].gender)]
        return self.inflect(words, form) if form or len(words) > 1 else words[0].text

    def render(self, template: str, words: Mapping[str, Word]) -> str:
        """A sentence: the template with words in its slots, and a capital."""
        text = _SLOT.sub(
            lambda found: self.phrase([words[name] for name in found[1].split()], found[2] or ""), template
        )
        text = self.contract(text)
        return text[0].upper() + text[1:]

    def texts(self) -> Iterator[str]:
        """Texts that have all characters of the language: those of templates and words."""
        for template in (*self.sentences, *itertools.chain(*self.stories)):
            yield _SLOT.sub(lambda found: (found[2] or "") if "/" in (found[2] or "") else "", template)
        for words in self.words.values():
            for word in words:
                yield from (word.text, *word.forms.values())

    def sample_words(
        self, templates: Sequence[str], rng: Random, known: Mapping[str, Word] | None = None
    ) -> dict[str, Word]:
        """Random words for all slots of a text; names of one class get different words.

        Args:
            templates: The sentences of the text.
            rng: The source of randomness.
            known: Words that are chosen already, by name.
        """
        words = dict(known or {})
        names = dict.fromkeys(name for template in templates for slot in slots(template) for name in slot.names)
        for name in names:
            if name not in words:
                used = [word for other, word in words.items() if word_class(other) == word_class(name)]
                words[name] = pick(rng, [word for word in self.words[word_class(name)] if word not in used])
        return words

    def sample_sentence(self, rng: Random) -> str:
        """A random sentence."""
        template = pick(rng, pick(rng, self.stories) if rng.random() < _STORY else self.sentences)
        return self.render(template, self.sample_words([template], rng))

    def sample_document(self, rng: Random) -> list[str]:
        """The sentences of a story, or of a text about a person and a place."""
        if rng.random() < 0.5:
            story = pick(rng, self.stories)
            words = self.sample_words(story, rng)
            return [self.render(template, words) for template in story]
        shared: dict[str, Word] = {}
        texts = []
        for template in shuffled(rng, self.sentences, pick(rng, _SENTENCES)):
            words = self.sample_words([template], rng, shared)
            shared |= {name: words[name] for name in _SHARED if name in words}
            texts.append(self.render(template, words))
        return texts


def slots(template: str) -> list[Slot]:
    """The slots of a template, from left to right."""
    return [Slot(tuple(names.split()), form) for names, form in _SLOT.findall(template)]


def word_class(name: str) -> str:
    """The class of a slot's name: `thing2` is a `thing`."""
    return name.rstrip("0123456789")


def plain(*texts: str) -> tuple[Word, ...]:
    """Words without forms."""
    return tuple(Word(text) for text in texts)


def people(**names: str) -> tuple[Word, ...]:
    """Names of people by gender, separated by spaces."""
    return tuple(Word(name, gender) for gender, text in names.items() for name in text.split())


def numbers(spelled: Callable[[int], str], least: int = 2) -> tuple[Word, ...]:
    """The numbers from `least` to 100 as words."""
    return tuple(Word(spelled(number), value=number) for number in range(least, 101))


def sums(form: str, minus: str, spelled: Callable[[int], str]) -> tuple[Word, ...]:
    """All additions and subtractions of whole numbers from 1 with results up to 100.

    Args:
        form: `{a} plus {b} is {c}` in the language.
        minus: `{c} minus {b} is {a}` in the language.
        spelled: The words of a number.
    """
    return tuple(
        Word(one.format(a=spelled(a), b=spelled(b), c=spelled(a + b)))
        for a in range(1, 100)
        for b in range(1, 101 - a)
        for one in (form, minus)
    )
