"""French: articles, agreement and place of adjectives, elision, contractions; numbers; templates.

Forms are articles, `le`, `un`, `son`, `les`, `des`; `nu` and `pluriel`, without one; `nombre`, a plural after a number;
and `accord`, the adjective alone.
"""

import re
from collections.abc import Sequence

from omni.synthetic.languages.templates import Language, Word, numbers, people, plain, sums

_ARTICLES = {"le": ("le", "la"), "un": ("un", "une"), "son": ("son", "sa")}
_PLURALS = ("les", "des", "pluriel", "nombre")
_VOWELS = "aeiouyàâéèêëîïôöùûœh"
# Words whose h is aspirated, or which otherwise allow no elision before them.
_ASPIRATED = ("hibou", "hibous", "hiboux", "hérisson", "hérissons", "hamster", "hamsters", "huit", "onze", "yaourt")
_ELISION = re.compile(
    rf"\b(le|la|de|que|ne|se|je|me|te|ce|jusque|lorsque) (?!(?:{'|'.join(_ASPIRATED)})\b)(?=[{_VOWELS}])", re.IGNORECASE
)
_CONTRACTIONS = {"à le": "au", "à les": "aux", "de le": "du", "de les": "des"}
_CONTRACTION = re.compile(rf"\b({'|'.join(_CONTRACTIONS)}) ", re.IGNORECASE)

_UNITS = (
    *("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize"),
    *("quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf"),
)
_TENS = {2: "vingt", 3: "trente", 4: "quarante", 5: "cinquante", 6: "soixante", 7: "soixante", 8: "quatre-vingt"}


def number(value: int) -> str:
    """A number of 0 to 100 in words, masculine."""
    if value < 20:
        return _UNITS[value]
    if value == 100:
        return "cent"
    tens = value // 10 if value < 90 else 8
    tens = 6 if tens == 7 else tens  # soixante-dix, quatre-vingt-dix
    rest = value - 10 * tens
    if rest == 0:
        return "quatre-vingts" if tens == 8 else _TENS[tens]
    return f"{_TENS[tens]} et {_UNITS[rest]}" if rest in (1, 11) and tens < 8 else f"{_TENS[tens]}-{_UNITS[rest]}"


def _feminine(text: str) -> str:
    """ "vingt et un" before a feminine noun."""
    return f"{text}e" if re.search(r"\bun$", text) else text


def _nouns(table: str) -> tuple[Word, ...]:
    """Nouns from rows `un chat chats`: article, singular, plural if they have one."""
    words = []
    for row in table.strip().split("\n"):
        article, text, *plural = row.split()
        words.append(Word(text, "m" if article == "un" else "f", {"pl": plural[0]} if plural else {}))
    return tuple(words)


def _adjectives(table: str, place: str) -> tuple[Word, ...]:
    """Adjectives from rows `beau belle beaux belles bel`; the last form, before a vowel, may be missing."""
    words = []
    for row in table.strip().split("\n"):
        text, feminine, plural, feminine_plural, *vowel = row.split()
        forms = {"f": feminine, "pl": plural, "fpl": feminine_plural, "vowel": vowel[0] if vowel else text}
        words.append(Word(text, "m", {**forms, "place": place}))
    return tuple(words)


def _starts_with_vowel(text: str) -> bool:
    return text[0] in _VOWELS and text.split()[0] not in _ASPIRATED


def _agree(adjective: Word, noun: Word, plural: bool, following: str) -> str:
    key = ("f" if noun.gender == "f" else "") + ("pl" if plural else "")
    if not key:
        return adjective.forms["vowel"] if _starts_with_vowel(following) else adjective.text
    return adjective.forms[key]


def inflect(words: Sequence[Word], form: str) -> str:
    """Article or number, adjectives before the noun, noun, adjectives after it."""
    *modifiers, noun = words
    plural = form in _PLURALS
    phrase = noun.forms["pl"] if plural else noun.text
    adjectives = [word for word in modifiers if not word.value]
    if form == "accord":
        return _agree(adjectives[0], noun, plural=False, following=".")
    for adjective in reversed([word for word in adjectives if word.forms["place"] == "before"]):
        phrase = f"{_agree(adjective, noun, plural, phrase)} {phrase}"
    for adjective in (word for word in adjectives if word.forms["place"] == "after"):
        phrase = f"{phrase} {_agree(adjective, noun, plural, '.')}"
    if form in ("nu", "pluriel"):
        return phrase
    if form == "nombre":
        count = next(word.text for word in modifiers if word.value)
        return f"{_feminine(count) if noun.gender == 'f' else count} {phrase}"
    if form == "son" and _starts_with_vowel(phrase):
        return f"son {phrase}"
    article = _ARTICLES[form][noun.gender == "f"] if form in _ARTICLES else form
    return f"{article} {phrase}"


def contract(text: str) -> str:
    """Elision and contraction: "l'ami", "du pain", "s'il"."""
    text = _ELISION.sub(lambda found: f"{found[1][:-1]}'", text)
    text = re.sub(r"\bsi (?=ils?\b)", "s'", text)
    return _CONTRACTION.sub(lambda found: f"{_joined(found[1])} ", text)


def _joined(words: str) -> str:
    joined = _CONTRACTIONS[words.lower()]
    return joined.capitalize() if words[0].isupper() else joined


_PEOPLE = people(f="Anne Claire Emma Hélène Inès Julie Léa Zoé", m="Antoine Bruno Émile Jules Marc Louis Paul Victor")
_ANIMALS = _nouns("""
un chien chiens
un chat chats
une vache vaches
un oiseau oiseaux
un lapin lapins
un ours ours
une souris souris
un canard canards
un mouton moutons
une poule poules
une grenouille grenouilles
un âne ânes
une chèvre chèvres
un hérisson hérissons
un renard renards
un cochon cochons
un singe singes
un hibou hiboux
un éléphant éléphants
une abeille abeilles
""")
_THINGS = _nouns("""
un ballon ballons
un sac sacs
un livre livres
une lampe lampes
un chapeau chapeaux
une veste vestes
une robe robes
une écharpe écharpes
une boîte boîtes
un couteau couteaux
une cuillère cuillères
une tasse tasses
une assiette assiettes
un verre verres
une image images
une lettre lettres
une clé clés
un crayon crayons
une bouteille bouteilles
un coussin coussins
une chaussure chaussures
une horloge horloges
une valise valises
un album albums
""")
_FURNITURE = _nouns("""
une table tables
une chaise chaises
un lit lits
un banc bancs
une étagère étagères
une armoire armoires
un canapé canapés
un escalier escaliers
""")
_FOOD = _nouns("""
une pomme pommes
une poire poires
un pain pains
un gâteau gâteaux
un œuf œufs
une orange oranges
une tomate tomates
un oignon oignons
une pêche pêches
une cerise cerises
un biscuit biscuits
un abricot abricots
""")
_MASSES = _nouns("""
un pain
une eau
un lait
une huile
une soupe
un fromage
un argent
une confiture
""")
_PLACES = _nouns("""
un parc parcs
un jardin jardins
une cuisine cuisines
une école écoles
une maison maisons
une ville villes
une forêt forêts
une chambre chambres
une bibliothèque bibliothèques
un musée musées
un hôtel hôtels
une église églises
un village villages
un atelier ateliers
un théâtre théâtres
une usine usines
""")
_COLOURS = _adjectives(
    """
rouge rouge rouges rouges
vert verte verts vertes
bleu bleue bleus bleues
jaune jaune jaunes jaunes
noir noire noirs noires
blanc blanche blancs blanches
gris grise gris grises
violet violette violets violettes
""",
    "after",
)
_ADJECTIVES = _adjectives(
    """
petit petite petits petites
grand grande grands grandes
beau belle beaux belles bel
vieux vieille vieux vieilles vieil
nouveau nouvelle nouveaux nouvelles nouvel
joli jolie jolis jolies
gros grosse gros grosses
""",
    "before",
)


def _hour(hour: int) -> str:
    special = {0: "minuit", 12: "midi", 1: "une heure", 21: "vingt et une heures"}
    return special.get(hour) or f"{number(hour)} heures"


_TIMES = plain(
    *(f"à {_hour(hour)}" for hour in range(24)),
    *(f"à {_hour(hour)} et quart" for hour in range(1, 12)),
    *(f"à {_hour(hour)} et demie" for hour in range(1, 12)),
    *(f"à {_hour(hour)} moins le quart" for hour in range(1, 12)),
    *(f"à {_hour(hour)} {number(minutes)}" for hour in range(1, 12) for minutes in (5, 10, 20, 25)),
    *(f"à {_hour(hour)} moins {number(minutes)}" for hour in range(1, 12) for minutes in (5, 10, 20, 25)),
)
_SENTENCES = (
    "{person} a {colour thing:un}.",
    "{person} cherche {adjective thing:le}.",
    "{person} achète {number thing:nombre}.",
    "{thing:le} est {colour thing:accord}.",
    "{colour thing:le} est sous {furniture:le}.",
    "dans {place:le}, il y a {adjective animal:un}.",
    "{person} va à {place:le} {time}.",
    "{day}, {person} va à {place:le}.",
    "est-ce que {person} voit {adjective animal:le}?",
    "où est {colour thing:le} de {person}?",
    "{person} joue avec {adjective animal:le}.",
    "{animal:le} dort dans {place:le}.",
    "{person} donne {food:un} à {animal:le}.",
    "{person} a {number} ans.",
    "{sum}.",
    "{sum}.",
    "le train arrive {time}.",
    "{person} et {person2} mangent {number food:nombre}.",
    "{adjective animal:un} traverse {place:le}.",
    "{person} ne sort pas sans {colour thing:le}.",
    "{person} aime {adjective animal:les}.",
    "{colour thing:le} est à {person}.",
    "combien de {thing:pluriel} y a-t-il dans {place:le}?",
    "dans {place:le}, il y a {number furniture:nombre}.",
    "{person} pose {thing:le} sur {furniture:le}.",
    "{person} mange {food:un} {time}.",
    "{animal:le} a peur de {animal2:le}.",
    "je n'ai pas de {thing:nu}.",
    "le prix de {thing:le} est de {number} euros.",
    "{person} dessine la tête de {animal:le}.",
    "{person} habite près de {place:le}.",
    "peux-tu donner {colour thing:le} à {person}?",
    "{person} compte de {number} à {number2}.",
    "derrière {place:le}, on voit {place2:le}.",
    "{adjective colour thing:un} est sur {furniture:le}.",
    "{person} rêve de {adjective animal:un}.",
    "{person} veut de {mass:le}.",
    "il n'y a plus de {mass:nu} dans {place:le}.",
    "{person} vient de {place:le} et {person2} va à {place2:le}.",
    "{day}, {place:le} est {place:fermé/fermée}.",
    "je crois que {person} est {person:content/contente}.",
    "{person} dit que {adjective animal:le} est dans {place:le}.",
    "{person} est {person:allé/allée} à {place:le} {time}.",
    "le frère de {person} a beaucoup de {thing:pluriel}.",
    "s'il pleut, {person} reste dans {place:le}.",
    "{person} parle à {person2} de {adjective animal:son}.",
    "{number food:nombre} coûtent {number2} euros.",
)
_STORIES = (
    (
        "{day}, {person} va à {place:le}.",
        "là-bas, {person:il/elle} voit {adjective animal:un}.",
        "{animal:le} est très {animal:fatigué/fatiguée}.",
        "{person} donne {food:un} à {animal:le}.",
        "{time}, tout le monde rentre à la maison.",
    ),
    (
        "{person} cherche {colour thing:le}.",
        "{thing:il/elle} n'est pas dans {place:le}.",
        "{person2} aide {person} et regarde sous {furniture:le}.",
        "{thing:le} est là, à côté de {food:un}.",
        "maintenant {person} est de nouveau {person:content/contente}.",
    ),
    (
        "{person} a besoin de {number food:nombre}.",
        "{time}, {person:il/elle} va au marché.",
        "là-bas, {person:il/elle} rencontre {person2} avec {colour thing:un}.",
        "{food:les} coûtent {number2} centimes.",
        "{person} paie et retourne à {place:le}.",
    ),
    (
        "c'est l'anniversaire de {person}: {person:il/elle} a {number} ans.",
        "{person2} offre {adjective colour thing:un} à {person}.",
        "tous mangent {food:des} et chantent une chanson.",
        "{animal:le} reçoit aussi {food2:un}.",
        "{time}, la fête est finie.",
    ),
    (
        "dans {place:le} habite {adjective animal:un}.",
        "{animal:le} a {colour thing:un}.",
        "un jour, {animal2:un} arrive et prend {thing:le}.",
        "{animal:le} court derrière {animal2:le}.",
        "à la fin, ils partagent {food:un} et deviennent amis.",
    ),
)

FRENCH = Language(
    name="French",
    voices=("fr", "fr-be", "fr-ch"),
    genders="mf",
    words={
        "person": _PEOPLE,
        "animal": _ANIMALS,
        "thing": _THINGS,
        "furniture": _FURNITURE,
        "food": _FOOD,
        "mass": _MASSES,
        "place": _PLACES,
        "colour": _COLOURS,
        "adjective": _ADJECTIVES,
        "number": numbers(number),
        "sum": sums("{a} plus {b} font {c}", "{c} moins {b} font {a}", number),
        "time": _TIMES,
        "day": plain(
            *["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
            *("aujourd'hui", "demain", "le soir", "le matin", "en été", "en hiver"),
        ),
    },
    sentences=_SENTENCES,
    stories=_STORIES,
    inflect=inflect,
    contract=contract,
)
