"""German: articles and adjectives by gender, case and number; numbers; templates.

Forms are `ARTICLE.CASE`. Articles: `der`, `ein`, `kein`; `pl`, a plural without one, also after a number.
"""

import re
from collections.abc import Sequence

from omni.synthetic.languages.templates import Language, Word, numbers, people, plain, sums

_CASES = ("nom", "akk", "dat", "gen")
_DER = {"m": ("der", "den", "dem", "des"), "f": ("die", "die", "der", "der"), "n": ("das", "das", "dem", "des")}
_EIN = {"m": ("", "en", "em", "es"), "f": ("e", "e", "er", "er"), "n": ("", "", "em", "es")}
_WEAK = {"m": ("e", "en", "en", "en"), "f": ("e", "e", "en", "en"), "n": ("e", "e", "en", "en")}  # after der
_MIXED = {"m": ("er", "en", "en", "en"), "f": ("e", "e", "en", "en"), "n": ("es", "es", "en", "en")}  # after ein, kein
_PLURAL = ("e", "e", "en", "er")  # of adjectives without an article
_CONTRACTED = {
    "in dem": "im",
    "an dem": "am",
    "zu dem": "zum",
    "zu der": "zur",
    "von dem": "vom",
    "bei dem": "beim",
    "in das": "ins",
    "an das": "ans",
}
_CONTRACTION = re.compile(rf"\b({'|'.join(_CONTRACTED)})\b", re.IGNORECASE)

_UNITS = (
    *("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"),
)
_TENS = ("zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")


def number(value: int) -> str:
    """A number of 0 to 100 in words."""
    if value < 20:
        return _UNITS[value]
    if value == 100:
        return "hundert"
    tens, units = _TENS[value // 10 - 2], value % 10
    return f"{'ein' if units == 1 else _UNITS[units]}und{tens}" if units else tens


def _nouns(table: str) -> tuple[Word, ...]:
    """Nouns from rows `der Hund Hundes Hunde`: article, nominative, genitive, plural."""
    words = []
    for row in table.strip().split("\n"):
        article, text, genitive, plural = row.split()
        gender = {"der": "m", "die": "f", "das": "n"}[article]
        weak = gender == "m" and genitive.endswith("n")  # "der Hase, den Hasen"
        dative = plural if plural[-1] in "ns" else f"{plural}n"
        words.append(
            Word(text, gender, {"oblique": genitive if weak else text, "gen": genitive, "pl": plural, "pl.dat": dative})
        )
    return tuple(words)


def inflect(words: Sequence[Word], form: str) -> str:
    """Article or number, adjectives and noun."""
    article, _, case = form.partition(".")
    *modifiers, noun = words
    at = _CASES.index(case)
    counts = [word.text for word in modifiers if word.value]
    adjectives = [word.text for word in modifiers if not word.value]
    if article == "pl":
        ending, text = _PLURAL[at], noun.forms["pl.dat" if case == "dat" else "pl"]
        return " ".join([*counts, *(adjective + ending for adjective in adjectives), text])
    first = _DER[noun.gender][at] if article == "der" else article + _EIN[noun.gender][at]
    ending = (_WEAK if article == "der" else _MIXED)[noun.gender][at]
    text = noun.text if case == "nom" else noun.forms["gen" if case == "gen" else "oblique"]
    return " ".join([first, *(adjective + ending for adjective in adjectives), text])


def contract(text: str) -> str:
    """Prepositions joined with articles: "im", "zur"."""
    return _CONTRACTION.sub(lambda found: _joined(found[0]), text)


def _joined(words: str) -> str:
    joined = _CONTRACTED[words.lower()]
    return joined.capitalize() if words[0].isupper() else joined


_PEOPLE = people(f="Anna Clara Emma Ida Lena Maria Nora Sofia", m="Anton Ben David Emil Karl Leo Otto Paul")
_ANIMALS = _nouns("""
der Hund Hundes Hunde
die Katze Katze Katzen
das Pferd Pferdes Pferde
die Kuh Kuh Kühe
der Vogel Vogels Vögel
der Hase Hasen Hasen
der Bär Bären Bären
die Maus Maus Mäuse
die Ente Ente Enten
das Schaf Schafes Schafe
das Huhn Huhns Hühner
der Frosch Frosches Frösche
der Esel Esels Esel
die Ziege Ziege Ziegen
der Igel Igels Igel
der Fuchs Fuchses Füchse
das Schwein Schweins Schweine
der Affe Affen Affen
""")
_THINGS = _nouns("""
der Ball Balles Bälle
die Tasche Tasche Taschen
das Buch Buches Bücher
die Lampe Lampe Lampen
der Hut Hutes Hüte
die Jacke Jacke Jacken
das Kleid Kleides Kleider
der Schal Schals Schals
die Kiste Kiste Kisten
das Messer Messers Messer
der Löffel Löffels Löffel
die Tasse Tasse Tassen
der Teller Tellers Teller
das Glas Glases Gläser
das Bild Bildes Bilder
der Brief Briefes Briefe
der Schlüssel Schlüssels Schlüssel
der Stift Stiftes Stifte
die Flasche Flasche Flaschen
das Kissen Kissens Kissen
die Decke Decke Decken
der Schuh Schuhs Schuhe
die Uhr Uhr Uhren
der Koffer Koffers Koffer
""")
_FURNITURE = _nouns("""
der Tisch Tisches Tische
der Stuhl Stuhles Stühle
das Bett Bettes Betten
die Bank Bank Bänke
das Regal Regals Regale
der Schrank Schrankes Schränke
das Sofa Sofas Sofas
die Truhe Truhe Truhen
""")
_FOOD = _nouns("""
der Apfel Apfels Äpfel
die Birne Birne Birnen
das Brot Brotes Brote
der Kuchen Kuchens Kuchen
das Ei Eies Eier
die Orange Orange Orangen
die Tomate Tomate Tomaten
die Kartoffel Kartoffel Kartoffeln
das Brötchen Brötchens Brötchen
der Pfirsich Pfirsichs Pfirsiche
die Kirsche Kirsche Kirschen
der Keks Kekses Kekse
""")
_PLACES = _nouns("""
der Park Parks Parks
der Garten Gartens Gärten
die Küche Küche Küchen
die Schule Schule Schulen
das Haus Hauses Häuser
die Stadt Stadt Städte
der Wald Waldes Wälder
das Zimmer Zimmers Zimmer
die Bibliothek Bibliothek Bibliotheken
das Museum Museums Museen
der Laden Ladens Läden
der Hof Hofes Höfe
das Dorf Dorfes Dörfer
der Keller Kellers Keller
das Theater Theaters Theater
die Kirche Kirche Kirchen
""")
_TIMES = plain(
    *("um ein Uhr" if hour == 1 else f"um {number(hour)} Uhr" for hour in range(1, 25)),
    *(f"um halb {number(hour)}" for hour in range(1, 13)),
    *(f"um Viertel {side} {number(hour)}" for hour in range(1, 13) for side in ("vor", "nach")),
    *(
        f"um {number(minutes)} {side} {number(hour)}"
        for hour in range(1, 13)
        for minutes in (5, 10, 20)
        for side in ("vor", "nach")
    ),
)
_SENTENCES = (
    "{person} hat {colour thing:ein.akk}.",
    "{person} sucht {adjective thing:der.akk}.",
    "{person} kauft {number thing:pl.akk}.",
    "{thing:der.nom} ist {colour}.",
    "{colour thing:der.nom} liegt unter {furniture:der.dat}.",
    "in {place:der.dat} ist {adjective animal:ein.nom}.",
    "{person} geht {time} in {place:der.akk}.",
    "{day} geht {person} in {place:der.akk}.",
    "siehst du {adjective animal:der.akk}?",
    "wo ist {colour thing:der.nom}?",
    "{person} spielt mit {adjective animal:der.dat}.",
    "{animal:der.nom} schläft in {place:der.dat}.",
    "{person} gibt {animal:der.dat} {food:ein.akk}.",
    "{person} ist {number} Jahre alt.",
    "{sum}.",
    "{sum}.",
    "der Zug kommt {day} {time}.",
    "{person} und {person2} essen {number food:pl.akk}.",
    "{adjective animal:ein.nom} läuft durch {place:der.akk}.",
    "ohne {colour thing:der.akk} geht {person} nicht aus dem Haus.",
    "{person} mag {adjective animal:pl.akk}.",
    "{colour thing:der.nom} gehört {person}.",
    "wie viele {thing:pl.nom} sind in {place:der.dat}?",
    "in {place:der.dat} stehen {number furniture:pl.nom}.",
    "{person} legt {thing:der.akk} auf {furniture:der.akk}.",
    "{person} isst {time} {food:ein.akk}.",
    "{animal:der.nom} hat Angst vor {animal2:der.dat}.",
    "ich habe {colour thing:kein.akk}.",
    "der Preis {thing:der.gen} beträgt {number} Euro.",
    "{person} malt ein Bild {animal:der.gen}.",
    "{person} wohnt neben {place:der.dat}.",
    "kannst du {person} {colour thing:der.akk} bringen?",
    "{person} zählt von {number} bis {number2}.",
    "hinter {place:der.dat} ist {place2:der.nom}.",
    "{adjective colour thing:ein.nom} liegt auf {furniture:der.dat}.",
    "{person} träumt von {adjective animal:ein.dat}.",
    "bitte bring mir {adjective colour thing:der.akk}!",
    "{person} kommt aus {place:der.dat} und {person2} geht zu {place2:der.dat}.",
    "{day} ist {place:der.nom} geschlossen.",
    "{person} hat {number} Freunde und {number2} Bücher.",
    "mit {colour thing:ein.dat} sieht {person} schön aus.",
    "{number food:pl.nom} kosten {number2} Euro.",
    "{person} fährt {day} mit {person2} in {place:der.akk}.",
    "das ist nicht {thing:der.nom}, das ist {thing2:der.nom}.",
)
_STORIES = (
    (
        "{day} geht {person} in {place:der.akk}.",
        "dort sieht {person:er/sie} {adjective animal:ein.akk}.",
        "{animal:der.nom} ist müde und hat Hunger.",
        "{person} gibt {animal:der.dat} {food:ein.akk}.",
        "{time} gehen beide nach Hause.",
    ),
    (
        "{person} sucht {colour thing:der.akk}.",
        "{thing:er/sie/es} ist nicht in {place:der.dat}.",
        "{person2} hilft {person} und schaut unter {furniture:der.akk}.",
        "dort liegt {thing:der.nom} neben {food:ein.dat}.",
        "jetzt ist {person} wieder froh.",
    ),
    (
        "{person} braucht {number food:pl.akk}.",
        "{time} geht {person:er/sie} auf den Markt.",
        "dort trifft {person:er/sie} {person2} mit {colour thing:ein.dat}.",
        "{food:pl.nom} kosten heute {number2} Cent.",
        "{person} kauft sie und geht zu {place:der.dat}.",
    ),
    (
        "{person} hat {day} Geburtstag und wird {number} Jahre alt.",
        "{person2} schenkt {person} {adjective colour thing:ein.akk}.",
        "alle essen {food:pl.akk} und singen ein Lied.",
        "{animal:der.nom} bekommt auch {food2:ein.akk}.",
        "{time} ist das Fest zu Ende.",
    ),
    (
        "in {place:der.dat} wohnt {adjective animal:ein.nom}.",
        "{animal:der.nom} hat {colour thing:ein.akk}.",
        "eines Tages kommt {animal2:ein.nom} und nimmt {thing:der.akk}.",
        "{animal:der.nom} läuft hinter {animal2:der.dat} her.",
        "am Ende teilen sie {food:ein.akk} und werden Freunde.",
    ),
)

GERMAN = Language(
    name="German",
    voices=("de",),
    genders="mfn",
    words={
        "person": _PEOPLE,
        "animal": _ANIMALS,
        "thing": _THINGS,
        "furniture": _FURNITURE,
        "food": _FOOD,
        "place": _PLACES,
        "colour": plain("rot", "grün", "blau", "gelb", "schwarz", "weiß", "braun", "grau"),
        "adjective": plain("klein", "groß", "alt", "schön", "hübsch", "dick", "seltsam", "leicht"),
        "number": numbers(number),
        "sum": sums("{a} plus {b} ist {c}", "{c} minus {b} ist {a}", number),
        "time": _TIMES,
        "day": plain(
            *(f"am {day}" for day in ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"]),
            *("heute", "morgen", "am Abend", "am Morgen", "im Sommer", "im Winter"),
        ),
    },
    sentences=_SENTENCES,
    stories=_STORIES,
    inflect=inflect,
    contract=contract,
)
