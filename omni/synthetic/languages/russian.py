"""Russian: cases of nouns and adjectives, agreement of numbers, forms of prepositions; templates.

Forms are cases, `nom`, `gen`, `dat`, `acc`, `ins`, `loc`; `pl.nom` and `pl.gen`; `count` and `count.acc`, a noun after
a number; `agree`, the adjective alone; and of places `where`, `to` and `from`.
"""

import re
from collections.abc import Sequence

from omni.synthetic.languages.templates import Language, Word, numbers, plain, sums

_CASES = ("nom", "gen", "dat", "acc", "ins", "loc")
# Endings of adjectives by the ending of their basic form: gender -> endings in the order of the cases; the accusative
# of masculine nouns is that of the nominative or the genitive.
_ENDINGS = {
    "ый": {
        "m": ("ый", "ого", "ому", "", "ым", "ом"),
        "f": ("ая", "ой", "ой", "ую", "ой", "ой"),
        "n": ("ое", "ого", "ому", "ое", "ым", "ом"),
        "pl": ("ые", "ых"),
    },
    "кий": {
        "m": ("кий", "кого", "кому", "", "ким", "ком"),
        "f": ("кая", "кой", "кой", "кую", "кой", "кой"),
        "n": ("кое", "кого", "кому", "кое", "ким", "ком"),
        "pl": ("кие", "ких"),
    },
    "шой": {
        "m": ("шой", "шого", "шому", "", "шим", "шом"),
        "f": ("шая", "шой", "шой", "шую", "шой", "шой"),
        "n": ("шое", "шого", "шому", "шое", "шим", "шом"),
        "pl": ("шие", "ших"),
    },
    "ний": {
        "m": ("ний", "него", "нему", "", "ним", "нем"),
        "f": ("няя", "ней", "ней", "нюю", "ней", "ней"),
        "n": ("нее", "него", "нему", "нее", "ним", "нем"),
        "pl": ("ние", "них"),
    },
    "ший": {
        "m": ("ший", "шего", "шему", "", "шим", "шем"),
        "f": ("шая", "шей", "шей", "шую", "шей", "шей"),
        "n": ("шее", "шего", "шему", "шее", "шим", "шем"),
        "pl": ("шие", "ших"),
    },
}
_CONSONANTS = "бвгджзклмнпрстфхцчшщ"
_BEFORE = (
    (re.compile(rf"\bс (?=[зсшж][{_CONSONANTS}])", re.IGNORECASE), "со "),
    (re.compile(r"\bо (?=[аиоуэ])", re.IGNORECASE), "об "),
)

_UNITS = (
    *("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять", "десять", "одиннадцать"),
    *("двенадцать", "тринадцать", "четырнадцать", "пятнадцать", "шестнадцать", "семнадцать", "восемнадцать"),
    "девятнадцать",
)
_TENS = (*("двадцать", "тридцать", "сорок", "пятьдесят", "шестьдесят", "семьдесят", "восемьдесят", "девяносто", "сто"),)


def number(value: int, gender: str = "m") -> str:
    """A number of 0 to 100 in words, for nouns of a gender."""
    tens, units = (0, value) if value < 20 else divmod(value, 10)
    if units == 1:
        last = {"m": "один", "f": "одна", "n": "одно"}[gender]
    elif units == 2:
        last = "две" if gender == "f" else "два"
    else:
        last = _UNITS[units]
    if not tens:
        return last
    return f"{_TENS[tens - 2]} {last}" if units else _TENS[tens - 2]


def _nouns(table: str) -> tuple[Word, ...]:
    """Nouns from rows of gender, the six cases of the singular, and nominative and genitive of the plural, if any."""
    words = []
    for row in table.strip().split("\n"):
        gender, *forms = row.split()
        words.append(Word(forms[0], gender, dict(zip((*_CASES, "pl.nom", "pl.gen"), forms, strict=False))))
    return tuple(words)


def _places(table: str) -> tuple[Word, ...]:
    """Places from rows of a preposition, "в", "во" or "на", and a noun."""
    words = []
    for row in table.strip().split("\n"):
        preposition, noun = row.split(maxsplit=1)
        (word,) = _nouns(noun)
        forms = {
            "where": f"{preposition} {word.forms['loc']}",
            "to": f"{preposition} {word.forms['acc']}",
            "from": f"{'с' if preposition == 'на' else 'из'} {word.forms['gen']}",
        }
        words.append(Word(word.text, word.gender, {**word.forms, **forms}))
    return tuple(words)


def _agree(adjective: str, noun: Word, form: str) -> str:
    last = next(last for last in _ENDINGS if adjective.endswith(last))
    endings = _ENDINGS[last]
    if form.startswith("pl."):
        ending = endings["pl"][form == "pl.gen"]
    elif form == "acc" and noun.gender == "m":
        ending = endings["m"][noun.forms["acc"] == noun.forms["gen"]]  # of people and animals, as in the genitive
    else:
        ending = endings[noun.gender][_CASES.index(form)]
    return adjective.removesuffix(last) + ending


def _counted(value: int, noun: Word, accusative: bool) -> str:
    """ "два стола", "пять столов"; the accusative, of things, differs in "одну книгу" alone."""
    words = number(value, noun.gender)
    last = value % 10 if value not in range(11, 15) else 0
    if last == 1:
        return f"{words[:-1]}у {noun.forms['acc']}" if accusative and noun.gender == "f" else f"{words} {noun.text}"
    return f"{words} {noun.forms['gen' if last in (2, 3, 4) else 'pl.gen']}"


def inflect(words: Sequence[Word], form: str) -> str:
    """Number or adjectives, and noun."""
    *modifiers, noun = words
    if form.startswith("count"):
        return _counted(modifiers[0].value, noun, accusative=form == "count.acc")
    if form == "agree":
        return _agree(modifiers[0].text, noun, "nom")
    return " ".join([*(_agree(word.text, noun, form) for word in modifiers), noun.forms[form]])


def contract(text: str) -> str:
    """Forms of prepositions before some sounds: "со слоном", "об осле"."""
    for pattern, preposition in _BEFORE:
        text = pattern.sub(preposition, text)
    return text


_PEOPLE = _nouns("""
f Анна Анны Анне Анну Анной Анне
f Вера Веры Вере Веру Верой Вере
f Ольга Ольги Ольге Ольгу Ольгой Ольге
f Маша Маши Маше Машу Машей Маше
f Нина Нины Нине Нину Ниной Нине
f Лена Лены Лене Лену Леной Лене
f Катя Кати Кате Катю Катей Кате
f Мария Марии Марии Марию Марией Марии
m Иван Ивана Ивану Ивана Иваном Иване
m Антон Антона Антону Антона Антоном Антоне
m Максим Максима Максиму Максима Максимом Максиме
m Олег Олега Олегу Олега Олегом Олеге
m Борис Бориса Борису Бориса Борисом Борисе
m Егор Егора Егору Егора Егором Егоре
m Андрей Андрея Андрею Андрея Андреем Андрее
m Игорь Игоря Игорю Игоря Игорем Игоре
""")
_ANIMALS = _nouns("""
f собака собаки собаке собаку собакой собаке собаки собак
f кошка кошки кошке кошку кошкой кошке кошки кошек
f корова коровы корове корову коровой корове коровы коров
m кот кота коту кота котом коте коты котов
m заяц зайца зайцу зайца зайцем зайце зайцы зайцев
m медведь медведя медведю медведя медведем медведе медведи медведей
f мышь мыши мыши мышь мышью мыши мыши мышей
f утка утки утке утку уткой утке утки уток
f овца овцы овце овцу овцой овце овцы овец
f лягушка лягушки лягушке лягушку лягушкой лягушке лягушки лягушек
m осёл осла ослу осла ослом осле ослы ослов
f коза козы козе козу козой козе козы коз
m ёж ежа ежу ежа ежом еже ежи ежей
f лиса лисы лисе лису лисой лисе лисы лис
m конь коня коню коня конём коне кони коней
m слон слона слону слона слоном слоне слоны слонов
f птица птицы птице птицу птицей птице птицы птиц
m попугай попугая попугаю попугая попугаем попугае попугаи попугаев
""")
_THINGS = _nouns("""
m мяч мяча мячу мяч мячом мяче мячи мячей
f сумка сумки сумке сумку сумкой сумке сумки сумок
f книга книги книге книгу книгой книге книги книг
f лампа лампы лампе лампу лампой лампе лампы ламп
f шапка шапки шапке шапку шапкой шапке шапки шапок
f куртка куртки куртке куртку курткой куртке куртки курток
n платье платья платью платье платьем платье платья платьев
m шарф шарфа шарфу шарф шарфом шарфе шарфы шарфов
f коробка коробки коробке коробку коробкой коробке коробки коробок
m нож ножа ножу нож ножом ноже ножи ножей
f ложка ложки ложке ложку ложкой ложке ложки ложек
f чашка чашки чашке чашку чашкой чашке чашки чашек
f тарелка тарелки тарелке тарелку тарелкой тарелке тарелки тарелок
m стакан стакана стакану стакан стаканом стакане стаканы стаканов
f картина картины картине картину картиной картине картины картин
n письмо письма письму письмо письмом письме письма писем
m ключ ключа ключу ключ ключом ключе ключи ключей
m карандаш карандаша карандашу карандаш карандашом карандаше карандаши карандашей
f бутылка бутылки бутылке бутылку бутылкой бутылке бутылки бутылок
f подушка подушки подушке подушку подушкой подушке подушки подушек
n одеяло одеяла одеялу одеяло одеялом одеяле одеяла одеял
m зонт зонта зонту зонт зонтом зонте зонты зонтов
m чемодан чемодана чемодану чемодан чемоданом чемодане чемоданы чемоданов
n ведро ведра ведру ведро ведром ведре вёдра вёдер
""")
_FURNITURE = _nouns("""
m стол стола столу стол столом столе столы столов
m стул стула стулу стул стулом стуле стулья стульев
f кровать кровати кровати кровать кроватью кровати кровати кроватей
f скамейка скамейки скамейке скамейку скамейкой скамейке скамейки скамеек
f полка полки полке полку полкой полке полки полок
m диван дивана дивану диван диваном диване диваны диванов
n кресло кресла креслу кресло креслом кресле кресла кресел
m сундук сундука сундуку сундук сундуком сундуке сундуки сундуков
""")
_FOOD = _nouns("""
n яблоко яблока яблоку яблоко яблоком яблоке яблоки яблок
f груша груши груше грушу грушей груше груши груш
m пирог пирога пирогу пирог пирогом пироге пироги пирогов
n яйцо яйца яйцу яйцо яйцом яйце яйца яиц
m апельсин апельсина апельсину апельсин апельсином апельсине апельсины апельсинов
m помидор помидора помидору помидор помидором помидоре помидоры помидоров
f булочка булочки булочке булочку булочкой булочке булочки булочек
f конфета конфеты конфете конфету конфетой конфете конфеты конфет
f слива сливы сливе сливу сливой сливе сливы слив
m лимон лимона лимону лимон лимоном лимоне лимоны лимонов
m банан банана банану банан бананом банане бананы бананов
f морковка морковки морковке морковку морковкой морковке морковки морковок
""")
_PLACES = _places("""
в m парк парка парку парк парком парке
в m сад сада саду сад садом саду
на f кухня кухни кухне кухню кухней кухне
в f школа школы школе школу школой школе
в m дом дома дому дом домом доме
в m город города городу город городом городе
в m лес леса лесу лес лесом лесу
в f комната комнаты комнате комнату комнатой комнате
в f библиотека библиотеки библиотеке библиотеку библиотекой библиотеке
в m музей музея музею музей музеем музее
в m магазин магазина магазину магазин магазином магазине
во m двор двора двору двор двором дворе
в f деревня деревни деревне деревню деревней деревне
на m рынок рынка рынку рынок рынком рынке
в m театр театра театру театр театром театре
на f площадь площади площади площадь площадью площади
""")
_ORDINALS = (
    *("первого", "второго", "третьего", "четвёртого", "пятого", "шестого", "седьмого", "восьмого", "девятого"),
    *("десятого", "одиннадцатого", "двенадцатого"),
)


def _hours(value: int) -> str:
    if value == 1:
        return "час"
    return f"{number(value)} {'часа' if value in (2, 3, 4) else 'часов'}"


_TIMES = plain(
    *(f"в {_hours(hour)}" for hour in range(1, 13)),
    *(f"в половине {ordinal}" for ordinal in _ORDINALS),
    *(f"в {number(minutes)} минут {ordinal}" for ordinal in _ORDINALS for minutes in (5, 10, 20)),
    *(
        f"без {part} {'час' if hour == 1 else number(hour)}"
        for hour in range(1, 13)
        for part in ("пяти", "десяти", "двадцати", "четверти")
    ),
)
_SENTENCES = (
    "у {person:gen} есть {colour thing:nom}.",
    "{person} ищет {adjective thing:acc}.",
    "{person} {person:купил/купила} {number thing:count.acc}.",
    "{thing:этот/эта/это} {thing} {colour thing:agree}.",
    "{colour thing:nom} лежит под {furniture:ins}.",
    "{place:where} живёт {adjective animal:nom}.",
    "{person} {person:пошёл/пошла} {place:to} {time}.",
    "{day} {person} {person:был/была} {place:where}.",
    "ты видишь {adjective animal:acc}?",
    "где лежит {colour thing:nom} {person:gen}?",
    "{person} играет с {adjective animal:ins}.",
    "{animal} спит {place:where}.",
    "{person} {person:дал/дала} {animal:dat} {food:acc}.",
    "{person:dat} {number year:count}.",
    "{sum}.",
    "{sum}.",
    "поезд придёт {time}.",
    "{person} и {person2} съели {number food:count.acc}.",
    "{adjective animal:nom} бежит через {place:acc}.",
    "{person} не выходит из дома без {colour thing:gen}.",
    "{person} любит {adjective animal:pl.gen}.",
    "это {colour thing:nom} {person:gen}.",
    "сколько {thing:pl.gen} {place:where}?",
    "{place:where} стоит {number furniture:count}.",
    "{person} {person:положил/положила} {thing:acc} на {furniture:acc}.",
    "{person} ест {food:acc} {time}.",
    "{animal} боится {animal2:gen}.",
    "у меня нет {colour thing:gen}.",
    "{person} {person:заплатил/заплатила} {number rouble:count.acc} за {thing:acc}.",
    "{person} рисует голову {animal:gen}.",
    "{person} живёт рядом с {place:ins}.",
    "дай {person:dat} {colour thing:acc}!",
    "{person} считает: {number}, {number2}, {number3}.",
    "за {place:ins} находится {place2}.",
    "{adjective colour thing:nom} лежит на {furniture:loc}.",
    "{person} думает о {adjective animal:loc}.",
    "{person} {person:вернулся/вернулась} {place:from} {time}.",
    "{person} {person:пришёл/пришла} {place:from}, а {person2} {person2:ушёл/ушла} {place2:to}.",
    "мы долго шли к {place:dat}.",
    "{person} говорит, что {adjective animal:nom} сидит {place:where}.",
    "{person} {person:рад/рада} видеть {person2:acc}.",
    "у брата {person:gen} есть {thing} и {thing2}.",
    "если идёт дождь, {person} остаётся {place:where}.",
    "{person} рассказывает {person2:dat} о {adjective animal:loc}.",
    "за {number food:count.acc} {person} {person:отдал/отдала} {number2 rouble:count.acc}.",
    "у {animal:gen} сегодня нет {food:gen}.",
    "{person} {person:пришёл/пришла} с {colour thing:ins} и {adjective animal:ins}.",
)
_STORIES = (
    (
        "{day} {person} {person:пошёл/пошла} {place:to}.",
        "там {person:он/она} {person:увидел/увидела} {adjective animal:acc}.",
        "{animal} очень {animal:устал/устала} и хочет есть.",
        "{person} {person:дал/дала} {animal:dat} {food:acc}.",
        "{time} они вернулись домой.",
    ),
    (
        "{person} ищет {colour thing:acc}.",
        "{thing:его/её/его} нет {place:where}.",
        "{person2} помогает {person:dat} и смотрит под {furniture:ins}.",
        "там лежит {thing}, рядом с {food:ins}.",
        "теперь {person} снова {person:рад/рада}.",
    ),
    (
        "{person} хочет купить {number food:count.acc}.",
        "{time} {person:он/она} {person:пошёл/пошла} на рынок.",
        "там {person:он/она} {person:встретил/встретила} {person2:acc} с {colour thing:ins}.",
        "за {food:acc} просят {number2 rouble:count.acc}.",
        "{person} {person:заплатил/заплатила} и {person:вернулся/вернулась} {place:to}.",
    ),
    (
        "сегодня день рождения {person:gen}, {person:ему/ей} {number year:count}.",
        "{person2} {person2:подарил/подарила} {person:dat} {colour thing:acc}.",
        "все едят {food:pl.nom} и поют песню.",
        "{animal} тоже {animal:получил/получила} {food2:acc}.",
        "{time} праздник закончился.",
    ),
    (
        "{place:where} {animal:жил/жила} {adjective animal:nom}.",
        "у {animal:gen} {thing:был/была/было} {colour thing:nom}.",
        "однажды {animal2:пришёл/пришла} {animal2} и {animal2:взял/взяла} {thing:acc}.",
        "{animal} {animal:побежал/побежала} за {animal2:ins}.",
        "потом они вместе съели {food:acc} и стали друзьями.",
    ),
)

RUSSIAN = Language(
    name="Russian",
    voices=("ru",),
    genders="mfn",
    words={
        "person": _PEOPLE,
        "animal": _ANIMALS,
        "thing": _THINGS,
        "furniture": _FURNITURE,
        "food": _FOOD,
        "place": _PLACES,
        "colour": plain("красный", "зелёный", "жёлтый", "белый", "чёрный", "серый", "синий", "розовый"),
        "adjective": plain("маленький", "большой", "новый", "старый", "красивый", "странный", "хороший", "лёгкий"),
        "number": numbers(number),
        "year": _nouns("m год года году год годом годе годы лет"),
        "rouble": _nouns("m рубль рубля рублю рубль рублём рубле рубли рублей"),
        "sum": sums("{a} плюс {b} будет {c}", "{c} минус {b} будет {a}", number),
        "time": _TIMES,
        "day": plain(
            *("в понедельник", "во вторник", "в среду", "в четверг", "в пятницу", "в субботу", "в воскресенье"),
            *("сегодня", "вчера", "утром", "вечером", "летом", "зимой"),
        ),
    },
    sentences=_SENTENCES,
    stories=_STORIES,
    inflect=inflect,
    contract=contract,
)
