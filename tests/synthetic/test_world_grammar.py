"""Grammar of the world's languages: every phrase of every template with every word, against tables of its own."""

import itertools
import re
from random import Random

import pytest

from omni.synthetic.languages import french, german, russian, spanish
from omni.synthetic.languages.spoken import LANGUAGES
from omni.synthetic.languages.templates import slots, word_class
from omni.synthetic.speech import WORDS

DE, ES, FR, RU = (LANGUAGES[code] for code in ("de", "es", "fr", "ru"))
BOTH = pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)


def templates(language):
    return [*language.sentences, *itertools.chain(*language.stories)]


def phrases(language):
    """Each form of each template with all combinations of words: the words, the form, and the phrase."""
    found = {slot for template in templates(language) for slot in slots(template) if "/" not in slot.form}
    kinds = {(tuple(map(word_class, slot.names)), slot.form) for slot in found}
    for names, form in sorted(kinds):
        if form or len(names) > 1:
            for words in itertools.product(*(language.words[name] for name in names)):
                yield words, form, language.phrase(words, form)


def rendered(language, number=4000):
    rng = Random(0)
    return [language.sample_sentence(rng) for _ in range(number)]


def genders(**table):
    return {noun: gender for gender, nouns in table.items() for noun in nouns.split()}


@BOTH
def test_every_slot_has_words_and_every_form_is_known(language):
    for template in templates(language):
        for slot in slots(template):
            assert all(language.words[word_class(name)] for name in slot.names), template
            forms = slot.form.split("/")
            used = {word.gender for word in language.words[word_class(slot.names[-1])]}
            assert len(forms) == 1 or used <= set(language.genders[: len(forms)]), template
    assert all(phrase and "{" not in phrase for _, _, phrase in phrases(language))


@BOTH
def test_sentences_are_spelled_as_sentences(language):
    texts = rendered(language)
    assert len({*texts}) > 3000
    for text in texts:
        assert re.fullmatch(r"¿?[^\W\d_a-zа-яё][^{}\d]*[.?!]", text), text
        assert not re.search(r"  | [.,?!:]|[.,?!]{2}", text), text
        assert len(text.split()) in WORDS, text


# The case of a noun is that of its preposition, and the article and the ending of the adjective those of the case.
GERMAN_GENDERS = genders(
    m="Hund Vogel Hase Bär Frosch Esel Igel Fuchs Affe Ball Hut Schal Löffel Teller Brief Schlüssel Stift Schuh Koffer "
    "Tisch Stuhl Schrank Apfel Kuchen Pfirsich Keks Park Garten Wald Laden Hof Keller",
    f="Katze Kuh Maus Ente Ziege Tasche Lampe Jacke Kiste Tasse Flasche Decke Uhr Bank Truhe Birne Orange Tomate "
    "Kartoffel Kirsche Küche Schule Stadt Bibliothek Kirche",
    n="Pferd Schaf Huhn Schwein Buch Kleid Messer Glas Bild Kissen Bett Regal Sofa Brot Ei Brötchen Haus Zimmer Museum "
    "Dorf Theater",
)
GERMAN_CASES = {  # article, case: masculine, feminine, neuter
    ("der", "nom"): ("der e", "die e", "das e"),
    ("der", "akk"): ("den en", "die e", "das e"),
    ("der", "dat"): ("dem en", "der en", "dem en"),
    ("der", "gen"): ("des en", "der en", "des en"),
    ("ein", "nom"): ("ein er", "eine e", "ein es"),
    ("ein", "akk"): ("einen en", "eine e", "ein es"),
    ("ein", "dat"): ("einem en", "einer en", "einem en"),
    ("kein", "akk"): ("keinen en", "keine e", "kein es"),
}
PREPOSITIONS = {
    **dict.fromkeys(["mit", "von", "aus", "zu", "neben", "hinter", "vor"], ("dat",)),
    **dict.fromkeys(["durch", "ohne"], ("akk",)),
    **dict.fromkeys(["in", "auf", "unter"], ("dat", "akk")),
}
WEAK = {"Hase": "Hasen", "Bär": "Bären", "Affe": "Affen"}


def test_german_articles_adjectives_and_nouns_agree():
    seen = set()
    for words, form, phrase in phrases(DE):
        *modifiers, noun = words
        article, _, case = form.partition(".")
        seen.add((article, case))
        adjectives = [word.text for word in modifiers if not word.value]
        if article == "pl":
            ending = {"nom": "e", "akk": "e", "dat": "en"}[case]
            counts = [word.text for word in modifiers if word.value]
            start = " ".join([*counts, *(adjective + ending for adjective in adjectives), ""])
            assert phrase.startswith(start), phrase
            assert phrase[len(start) :].isalpha(), phrase
            continue
        first, ending = GERMAN_CASES[article, case]["mfn".index(GERMAN_GENDERS[noun.text])].split()
        *found, last = phrase.split()
        assert found == [first, *(adjective + ending for adjective in adjectives)], phrase
        if noun.text in WEAK:
            assert last == (noun.text if case == "nom" else WEAK[noun.text]), phrase
        elif case == "gen" and GERMAN_GENDERS[noun.text] != "f":
            assert last in (f"{noun.text}s", f"{noun.text}es"), phrase
        else:
            assert last == noun.text, phrase
    assert {key for key in seen if key[0] != "pl"} == GERMAN_CASES.keys()


def test_german_prepositions_take_their_case():
    found = [
        (preposition, case)
        for template in templates(DE)
        for preposition, case in re.findall(r"(\w+) \{[^:}]+:\w+\.(\w+)\}", template.lower())
        if preposition in PREPOSITIONS
    ]
    assert len(found) > 20
    assert all(case in PREPOSITIONS[preposition] for preposition, case in found)
    assert not re.search(r"\b([Ii]n|[Aa]n|[Vv]on|[Zz]u) dem\b|\b[Zz]u der\b|\b[Ii]n das\b", " ".join(rendered(DE)))


FRENCH_GENDERS = genders(
    m="chien chat oiseau lapin ours canard mouton âne hérisson renard cochon singe hibou éléphant ballon sac livre "
    "chapeau couteau verre crayon coussin album lit banc canapé escalier pain gâteau œuf oignon biscuit abricot lait "
    "fromage argent parc jardin musée hôtel village atelier théâtre",
    f="vache souris poule grenouille chèvre abeille lampe veste robe écharpe boîte cuillère tasse assiette image "
    "lettre clé bouteille chaussure horloge valise table chaise étagère armoire pomme poire orange tomate pêche cerise "
    "eau huile soupe confiture cuisine école maison ville forêt chambre bibliothèque église usine",
)
FRENCH_ADJECTIVES = {  # masculine, before a vowel, feminine; plural of both
    "rouge": "rouge rouge rouge rouges rouges",
    "vert": "vert vert verte verts vertes",
    "bleu": "bleu bleu bleue bleus bleues",
    "jaune": "jaune jaune jaune jaunes jaunes",
    "noir": "noir noir noire noirs noires",
    "blanc": "blanc blanc blanche blancs blanches",
    "gris": "gris gris grise gris grises",
    "violet": "violet violet violette violets violettes",
    "petit": "petit petit petite petits petites",
    "grand": "grand grand grande grands grandes",
    "beau": "beau bel belle beaux belles",
    "vieux": "vieux vieil vieille vieux vieilles",
    "nouveau": "nouveau nouvel nouvelle nouveaux nouvelles",
    "joli": "joli joli jolie jolis jolies",
    "gros": "gros gros grosse gros grosses",
}
BEFORE = ("petit", "grand", "beau", "vieux", "nouveau", "joli", "gros")
SOUNDS = "aeiouyéèêâàîôœ"  # and h, except for those words:
ASPIRATED = "hibou|hiboux|hérisson|hérissons"


def test_french_articles_and_adjectives_agree():
    for words, form, phrase in phrases(FR):
        *modifiers, noun = words
        gender, plural = FRENCH_GENDERS.get(noun.text, "m"), form in ("les", "des", "pluriel", "nombre")
        article = {"le": "le la", "un": "un une", "son": "son sa", "les": "les les", "des": "des des"}.get(form)
        found = phrase.split()
        if article and not (form == "son" and found[0] == "son"):
            assert found[0] == article.split()[gender == "f"], phrase
        for adjective in (word.text for word in modifiers if not word.value):
            at = found.index(noun.text if not plural else noun.forms["pl"]) if form != "accord" else 0
            vowel = form != "accord" and re.match(rf"(?!{ASPIRATED})[{SOUNDS}h]", found[at]) is not None
            masculine, liaison, feminine, *several = FRENCH_ADJECTIVES[adjective].split()
            if plural:
                right = several[gender == "f"]
            elif gender == "f":
                right = feminine
            else:
                right = liaison if vowel and adjective in BEFORE else masculine
            place = 0 if form == "accord" else at - 1 if adjective in BEFORE else at + 1
            assert found[place] == right, phrase
        if form == "nombre" and gender == "f":
            assert not re.search(r"\bun\b", phrase), phrase


def test_french_elision_and_contraction():
    text = " ".join(rendered(FR, 8000)).lower()
    assert not re.search(rf"\b(le|la|de|que|ne|je|se|sa|si) (?!(?:{ASPIRATED}|huit|onze)\b)[{SOUNDS}h]", text)
    assert not re.search(r"\b(de|à) les? ", text)
    assert not re.search(rf"\w'(?:{ASPIRATED})\b|\w'[^{SOUNDS}h]", text.replace("s'il", ""))
    for words in ("l'ours", "d'eau", "qu'anne", "l'hôtel", "du hibou", "le hérisson", "s'il", "de l'huile", "d'un"):
        assert words in text, words


SPANISH_MASCULINE = {
    "ratón",
    "balón",
    "lápiz",
    "cojín",
    "reloj",
    "estante",
    "sofá",
    "sillón",
    "pan",
    "pastel",
    "tomate",
}
SPANISH_MASCULINE |= {"melocotón", "aceite", "azúcar", "parque", "jardín", "bosque", "hotel", "taller"}
SPANISH_FEMININE = {"foto", "llave", "leche", "sal", "ciudad", "habitación"}
STRESSED = ("agua", "águila", "aula", "hacha")
INVARIABLE = {"verde", "azul", "gris", "grande"}


def test_spanish_articles_and_adjectives_agree():
    for words, form, phrase in phrases(ES):
        *modifiers, noun = words
        text, plural = noun.text, form in ("los", "unos", "plural", "numero")
        assert text in SPANISH_MASCULINE | SPANISH_FEMININE or text[-1] in "oa", text
        feminine = text in SPANISH_FEMININE or (text[-1] == "a" and text not in SPANISH_MASCULINE)
        masculine_article = not feminine or text in STRESSED
        found = phrase.split()
        if form in ("el", "un"):
            right = {"el": ("la", "el"), "un": ("una", "un")}[form][masculine_article]
            assert found[0] == right, phrase
        if form in ("los", "unos"):
            assert found[0] == form.replace("o", "a" if feminine else "o"), phrase
        if form == "numero":
            assert not re.search(r"uno ", phrase), phrase
            assert not re.search(r"\b(treinta|cuarenta) y un " if feminine else r"una ", phrase), phrase
        for adjective in (word.text for word in modifiers if not word.value):
            ending = "s" if adjective[-1] in "eo" else "es"
            right = adjective if adjective in INVARIABLE else adjective[:-1] + ("a" if feminine else "o")
            assert found[-1] == (right + ending if plural else right), phrase
        if plural:
            assert noun.forms["pl"].endswith("s"), phrase


def test_spanish_contractions():
    text = " ".join(rendered(ES, 8000))
    assert not re.search(r"\b([Aa]|de) el\b|\bla (agua|águila|aula|hacha)\b|\by [IÍií]|\bo [oO]", text)
    for words in ("al ", "del ", "El agua", "el aula", "el águila", "un hacha", "e Inés", "¿Ves"):
        assert words in text, words


# Masculine, feminine and neuter in the six cases, with the accusative of things; nominative and genitive of the plural.
RUSSIAN_ADJECTIVES = {
    "красный": (
        "красный красного красному красный красным красном",
        "красная красной красной красную красной красной",
        "красное красного красному красное красным красном",
        "красные красных",
    ),
    "синий": (
        "синий синего синему синий синим синем",
        "синяя синей синей синюю синей синей",
        "синее синего синему синее синим синем",
        "синие синих",
    ),
    "маленький": (
        "маленький маленького маленькому маленький маленьким маленьком",
        "маленькая маленькой маленькой маленькую маленькой маленькой",
        "маленькое маленького маленькому маленькое маленьким маленьком",
        "маленькие маленьких",
    ),
    "большой": (
        "большой большого большому большой большим большом",
        "большая большой большой большую большой большой",
        "большое большого большому большое большим большом",
        "большие больших",
    ),
    "хороший": (
        "хороший хорошего хорошему хороший хорошим хорошем",
        "хорошая хорошей хорошей хорошую хорошей хорошей",
        "хорошее хорошего хорошему хорошее хорошим хорошем",
        "хорошие хороших",
    ),
}
CASES = ("nom", "gen", "dat", "acc", "ins", "loc")
OBLIQUE = {"заяц": "зайц", "осёл": "осл", "рынок": "рынк"}  # stems with a fleeting vowel
LOCATIVE = {"сад": "саду", "лес": "лесу"}
SOFT_STRESS = {"рубль", "конь"}


def declined(word, gender, animate):
    """The singular by the textbook's tables: first, second and third declension."""
    if gender == "f" and word.endswith("ия"):
        ending, stem = ["ия", "ии", "ии", "ию", "ией", "ии"], word[:-2]
    elif gender == "f" and word[-1] in "ая":
        stem, hard = word[:-1], word[-1] == "а"
        genitive = "и" if not hard or stem[-1] in "гкхжчшщ" else "ы"
        instrumental = "ой" if hard and stem[-1] not in "жчшщц" else "ей"
        ending = [word[-1], genitive, "е", "у" if hard else "ю", instrumental, "е"]
        if word == "овца":
            ending[4] = "ой"  # stressed
    elif gender == "f":
        stem, ending = word[:-1], ["ь", "и", "и", "ь", "ью", "и"]
    elif gender == "n":
        stem, hard = word[:-1], word[-1] == "о"
        ending = [word[-1], *("а у" if hard else "я ю").split(), word[-1], "ом" if hard else "ем", "е"]
    elif word[-1] in "ьй":
        stem = word[:-1]
        ending = [word[-1], "я", "ю", "", "ём" if word in SOFT_STRESS else "ем", "е"]
    else:
        stem = OBLIQUE.get(word, word)
        stressed = word in ("мяч", "нож", "ключ", "карандаш", "ёж")
        ending = ["", "а", "у", "", "ем" if stem[-1] in "жчшщц" and not stressed else "ом", "е"]
    forms = [word, *(stem + each for each in ending[1:])]
    if word == "ёж":
        forms = ["ёж", *(form.replace("ё", "е") for form in forms[1:])]
    if gender == "m":
        forms[3] = forms[1] if animate else word
    forms[5] = LOCATIVE.get(word, forms[5])
    return dict(zip(CASES, forms, strict=True))


@pytest.mark.parametrize("name", ["person", "animal", "thing", "furniture", "food", "place", "rouble"])
def test_russian_nouns_are_declined_by_table(name):
    for word in RU.words[name]:
        expected = declined(word.text, word.gender, name in ("person", "animal"))
        assert {case: word.forms[case] for case in CASES} == expected, word.text


def test_russian_adjectives_agree():
    tables = {**RUSSIAN_ADJECTIVES}
    hard = [one.text for name in ("colour", "adjective") for one in RU.words[name] if one.text not in tables]
    for text in hard:
        stem, model = (text[:-3], "маленьк") if text.endswith("кий") else (text[:-2], "красн")
        rows = RUSSIAN_ADJECTIVES["маленький" if model == "маленьк" else "красный"]
        tables[text] = tuple(row.replace(model, stem + "к" if model == "маленьк" else stem) for row in rows)
    animate = {word.text for name in ("person", "animal") for word in RU.words[name]}
    checked = 0
    for words, form, phrase in phrases(RU):
        *modifiers, noun = words
        if form.startswith("count") or not modifiers:
            continue
        for adjective, found in zip(modifiers, phrase.split(), strict=False):
            rows = tables[adjective.text]
            if form.startswith("pl."):
                right = rows[3].split()[form == "pl.gen"]
            else:
                case = "nom" if form == "agree" else form
                if case == "acc" and noun.gender == "m" and noun.text in animate:
                    case = "gen"
                right = rows["mfn".index(noun.gender)].split()[CASES.index(case)]
            assert found == right, phrase
            checked += 1
    assert checked > 4000


def test_russian_nouns_agree_with_their_number():
    for (count, noun), form, phrase in (each for each in phrases(RU) if each[1].startswith("count")):
        digits = f"{count.value:02}"
        if digits[0] == "1" or digits[1] in "056789":
            right = noun.forms["pl.gen"]
        elif digits[1] == "1":
            right = noun.forms["acc" if form == "count.acc" else "nom"]
        else:
            right = noun.forms["gen"]
        assert phrase.split()[-1] == right, phrase
        if count.value % 10 in (1, 2) and digits[0] != "1":
            one, two = {"m": ("один", "два"), "f": ("одна", "две"), "n": ("одно", "два")}[noun.gender]
            one = "одну" if one == "одна" and form == "count.acc" else one
            assert phrase.split()[-2] == (one if digits[1] == "1" else two), phrase
    text = " ".join(rendered(RU, 8000))
    assert not re.search(r"\bс (слон|стар|стран|стакан)|\bо [аоиуэ]|\bоб [еёюябвк]", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            german.number,
            {1: "eins", 16: "sechzehn", 21: "einundzwanzig", 30: "dreißig", 77: "siebenundsiebzig", 100: "hundert"},
        ),
        (
            french.number,
            {
                17: "dix-sept",
                21: "vingt et un",
                70: "soixante-dix",
                71: "soixante et onze",
                80: "quatre-vingts",
                81: "quatre-vingt-un",
                91: "quatre-vingt-onze",
                99: "quatre-vingt-dix-neuf",
                100: "cent",
            },
        ),
        (
            spanish.number,
            {16: "dieciséis", 22: "veintidós", 26: "veintiséis", 31: "treinta y uno", 55: "cincuenta y cinco"},
        ),
        (
            russian.number,
            {12: "двенадцать", 19: "девятнадцать", 40: "сорок", 51: "пятьдесят один", 90: "девяносто", 100: "сто"},
        ),
    ],
    ids=["de", "fr", "es", "ru"],
)
def test_numbers_in_words(number, words):
    assert {value: number(value) for value in words} == words
    assert len({number(value) for value in range(101)}) == 101


def test_spanish_and_french_numbers_before_a_noun():
    assert [spanish.before_noun(spanish.number(value), "m") for value in (1, 21, 31)] == [
        "un",
        "veintiún",
        "treinta y un",
    ]
    assert [spanish.before_noun(spanish.number(value), "f") for value in (21, 41)] == ["veintiuna", "cuarenta y una"]
    number, *_ = (word for word in FR.words["number"] if word.value == 21)
    assert FR.phrase([number, FR.words["food"][0]], "nombre") == "vingt et une pommes"
