"""Spanish: articles, agreement, "el agua", contractions; numbers; templates.

Forms are articles, `el`, `un`, `los`, `unos`; `nudo` and `plural`, without one; `numero`, a plural after a number; and
`acuerdo`, the adjective alone. Adjectives follow the noun.
"""

import re
from collections.abc import Sequence

from omni.synthetic.languages.templates import Language, Word, numbers, people, plain, sums

_ARTICLES = {"el": ("el", "la"), "un": ("un", "una"), "los": ("los", "las"), "unos": ("unos", "unas")}
_PLURALS = ("los", "unos", "plural", "numero")
# Feminine nouns with a stressed a at the start take the masculine articles in the singular: "el agua fría".
_STRESSED_A = ("agua", "águila", "aula", "hacha")
_CONTRACTIONS = (
    (re.compile(r"\b(a|de) el ", re.IGNORECASE), lambda found: f"{found[1]}l "),
    (re.compile(r"\by (?=h?[iíÍI](?![aeoáéó]))"), lambda found: "e "),
    (re.compile(r"\bo (?=h?[oóÓO])"), lambda found: "u "),
)

_UNITS = (
    *("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez", "once", "doce"),
    *("trece", "catorce", "quince", "dieciséis", "diecisiete", "dieciocho", "diecinueve", "veinte", "veintiuno"),
    *("veintidós", "veintitrés", "veinticuatro", "veinticinco", "veintiséis", "veintisiete", "veintiocho"),
    "veintinueve",
)
_TENS = {3: "treinta", 4: "cuarenta", 5: "cincuenta", 6: "sesenta", 7: "setenta", 8: "ochenta", 9: "noventa"}


def number(value: int) -> str:
    """A number of 0 to 100 in words, as one counts."""
    if value < 30:
        return _UNITS[value]
    if value == 100:
        return "cien"
    tens, units = _TENS[value // 10], value % 10
    return f"{tens} y {_UNITS[units]}" if units else tens


def before_noun(text: str, gender: str) -> str:
    """A number before a noun: "veintiún libros", "treinta y una casas"."""
    if not text.endswith("uno"):
        return text
    if gender == "f":
        return f"{text[:-3]}una"
    return "veintiún" if text == "veintiuno" else f"{text[:-3]}un"


def _nouns(table: str) -> tuple[Word, ...]:
    """Nouns from rows `un perro perros`: article of the gender, singular, plural if they have one."""
    words = []
    for row in table.strip().split("\n"):
        article, text, *plural = row.split()
        words.append(Word(text, "m" if article == "un" else "f", {"pl": plural[0]} if plural else {}))
    return tuple(words)


def _adjectives(table: str) -> tuple[Word, ...]:
    """Adjectives from rows `rojo roja rojos rojas`."""
    words = []
    for row in table.strip().split("\n"):
        text, feminine, plural, feminine_plural = row.split()
        words.append(Word(text, "m", {"f": feminine, "pl": plural, "fpl": feminine_plural}))
    return tuple(words)


def _agree(adjective: Word, noun: Word, plural: bool) -> str:
    key = ("f" if noun.gender == "f" else "") + ("pl" if plural else "")
    return adjective.forms[key] if key else adjective.text


def inflect(words: Sequence[Word], form: str) -> str:
    """Article or number, noun, adjectives."""
    *modifiers, noun = words
    plural = form in _PLURALS
    adjectives = [_agree(word, noun, plural) for word in modifiers if not word.value]
    if form == "acuerdo":
        return adjectives[0]
    phrase = " ".join([noun.forms["pl"] if plural else noun.text, *adjectives])
    if form in ("nudo", "plural"):
        return phrase
    if form == "numero":
        count = next(word.text for word in modifiers if word.value)
        return f"{before_noun(count, noun.gender)} {phrase}"
    feminine = noun.gender == "f" and (plural or noun.text not in _STRESSED_A)
    return f"{_ARTICLES[form][feminine]} {phrase}"


def contract(text: str) -> str:
    """Contractions and euphony: "al", "del", "e Inés", "u ocho"."""
    for pattern, joined in _CONTRACTIONS:
        text = pattern.sub(joined, text)
    return f"¿{text[0].upper()}{text[1:]}" if text.endswith("?") else text


_PEOPLE = people(f="Ana Carmen Elena Inés Lucía María Rosa Sofía", m="Andrés Carlos Diego Íñigo Juan Luis Mario Pablo")
_ANIMALS = _nouns("""
un perro perros
un gato gatos
una vaca vacas
un pájaro pájaros
un conejo conejos
un oso osos
un ratón ratones
un pato patos
una oveja ovejas
una gallina gallinas
una rana ranas
un burro burros
una cabra cabras
un zorro zorros
un cerdo cerdos
un mono monos
una águila águilas
una tortuga tortugas
un caballo caballos
""")
_THINGS = _nouns("""
un balón balones
un bolso bolsos
un libro libros
una lámpara lámparas
un sombrero sombreros
una chaqueta chaquetas
una falda faldas
una bufanda bufandas
una caja cajas
un cuchillo cuchillos
una cuchara cucharas
una taza tazas
un plato platos
un vaso vasos
una foto fotos
una carta cartas
una llave llaves
un lápiz lápices
una botella botellas
un cojín cojines
un zapato zapatos
un reloj relojes
una maleta maletas
una hacha hachas
""")
_FURNITURE = _nouns("""
una mesa mesas
una silla sillas
una cama camas
un banco bancos
un estante estantes
un armario armarios
un sofá sofás
un sillón sillones
""")
_FOOD = _nouns("""
una manzana manzanas
una pera peras
un pan panes
un pastel pasteles
un huevo huevos
una naranja naranjas
un tomate tomates
una cebolla cebollas
un melocotón melocotones
una cereza cerezas
una galleta galletas
un higo higos
""")
_MASSES = _nouns("""
un pan
una agua
una leche
un aceite
una sopa
un queso
una sal
un azúcar
""")
_PLACES = _nouns("""
un parque parques
un jardín jardines
una cocina cocinas
una escuela escuelas
una casa casas
una ciudad ciudades
un bosque bosques
una habitación habitaciones
una biblioteca bibliotecas
un museo museos
un hotel hoteles
una iglesia iglesias
un pueblo pueblos
un taller talleres
un teatro teatros
una aula aulas
""")
_COLOURS = _adjectives("""
rojo roja rojos rojas
verde verde verdes verdes
azul azul azules azules
amarillo amarilla amarillos amarillas
negro negra negros negras
blanco blanca blancos blancas
gris gris grises grises
morado morada morados moradas
""")
_ADJECTIVES = _adjectives("""
pequeño pequeña pequeños pequeñas
grande grande grandes grandes
bonito bonita bonitos bonitas
viejo vieja viejos viejas
nuevo nueva nuevos nuevas
gordo gorda gordos gordas
extraño extraña extraños extrañas
""")


def _hour(hour: int) -> str:
    return "la una" if hour == 1 else f"las {number(hour)}"


_TIMES = plain(
    "al mediodía",
    "a medianoche",
    *(f"a {_hour(hour)}" for hour in range(1, 13)),
    *(f"a {_hour(hour)} y {part}" for hour in range(1, 13) for part in ("cuarto", "media", "cinco", "diez", "veinte")),
    *(f"a {_hour(hour)} menos {part}" for hour in range(1, 13) for part in ("cuarto", "cinco", "diez", "veinte")),
)
_SENTENCES = (
    "{person} tiene {colour thing:un}.",
    "{person} busca {adjective thing:el}.",
    "{person} compra {number thing:numero}.",
    "{thing:el} es {colour thing:acuerdo}.",
    "{colour thing:el} está debajo de {furniture:el}.",
    "en {place:el} hay {adjective animal:un}.",
    "{person} va a {place:el} {time}.",
    "{day} {person} va a {place:el}.",
    "ves {adjective animal:el}?",
    "dónde está {colour thing:el} de {person}?",
    "{person} juega con {adjective animal:el}.",
    "{animal:el} duerme en {place:el}.",
    "{person} da {food:un} a {animal:el}.",
    "{person} tiene {number year:numero}.",
    "{sum}.",
    "{sum}.",
    "el tren llega {time}.",
    "{person} y {person2} comen {number food:numero}.",
    "{adjective animal:un} cruza {place:el}.",
    "{person} no sale sin {colour thing:el}.",
    "a {person} le gustan {adjective animal:los}.",
    "{colour thing:el} es de {person}.",
    "hay {thing:plural} en {place:el}?",
    "en {place:el} hay {number furniture:numero}.",
    "{person} pone {thing:el} en {furniture:el}.",
    "{person} come {food:un} {time}.",
    "{animal:el} tiene miedo de {animal2:el}.",
    "no tengo {colour thing:nudo}.",
    "{person} quiere {colour thing:un} o {colour2 thing2:un}.",
    "{person} paga {number euro:numero} por {thing:el}.",
    "{person} dibuja la cabeza de {animal:el}.",
    "{person} vive cerca de {place:el}.",
    "puedes dar {colour thing:el} a {person}?",
    "{person} cuenta de {number} a {number2}.",
    "detrás de {place:el} se ve {place2:el}.",
    "{adjective thing:un} está en {furniture:el}.",
    "{person} sueña con {adjective animal:un}.",
    "{mass:el} está en {place:el}.",
    "ya no hay {mass:nudo} en {place:el}.",
    "{person} viene de {place:el} y {person2} va a {place2:el}.",
    "{day} {place:el} está {place:cerrado/cerrada}.",
    "creo que {person} está {person:contento/contenta}.",
    "{person} dice que {adjective animal:el} está en {place:el}.",
    "el hermano de {person} tiene {thing:unos} y {thing2:unos}.",
    "si llueve, {person} se queda en {place:el}.",
    "{person} habla con {person2} de {adjective animal:el}.",
    "{number food:numero} cuestan {number2 euro:numero}.",
)
_STORIES = (
    (
        "{day} {person} va a {place:el}.",
        "allí ve {adjective animal:un}.",
        "{animal:el} está muy {animal:cansado/cansada} y tiene hambre.",
        "{person} da {food:un} a {animal:el}.",
        "{time} todos vuelven a casa.",
    ),
    (
        "{person} busca {colour thing:el}.",
        "{thing:el} no está en {place:el}.",
        "{person2} ayuda a {person} y mira debajo de {furniture:el}.",
        "allí está {thing:el}, al lado de {food:un}.",
        "ahora {person} está otra vez {person:contento/contenta}.",
    ),
    (
        "{person} necesita {number food:numero}.",
        "{time} {person} va al mercado.",
        "allí encuentra a {person2} con {colour thing:un}.",
        "{food:los} cuestan {number2 cent:numero}.",
        "{person} paga y vuelve a {place:el}.",
    ),
    (
        "hoy es el cumpleaños de {person}, que tiene {number year:numero}.",
        "{person2} regala {colour thing:un} a {person}.",
        "todos comen {food:unos} y cantan una canción.",
        "{animal:el} también recibe {food2:un}.",
        "{time} la fiesta se acaba.",
    ),
    (
        "en {place:el} vive {adjective animal:un}.",
        "{animal:el} tiene {colour thing:un}.",
        "un día llega {animal2:un} y toma {thing:el}.",
        "{animal:el} corre detrás de {animal2:el}.",
        "al final comparten {food:un} y se hacen amigos.",
    ),
)

SPANISH = Language(
    name="Spanish",
    voices=("es", "es-419"),
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
        "year": _nouns("un año años"),
        "euro": _nouns("un euro euros"),
        "cent": _nouns("un céntimo céntimos"),
        "sum": sums("{a} más {b} son {c}", "{c} menos {b} son {a}", number),
        "time": _TIMES,
        "day": plain(
            *(f"el {day}" for day in ["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"]),
            *("hoy", "mañana", "esta tarde", "por la mañana", "en verano", "en invierno"),
        ),
    },
    sentences=_SENTENCES,
    stories=_STORIES,
    inflect=inflect,
    contract=contract,
)
