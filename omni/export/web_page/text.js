// Tokens of conversations as omni.text has them: the tokenizer, the chat template, and positions of media.

const NUM_SPECIALS = 32, FIRST_PIECE = NUM_SPECIALS + 256, MARK = "▁", TICKS = 12.5, MEL_RATE = 100;
export const BOS = 1, END = 7, IMAGE = 8, AUDIO = 13;
const ROLES = {system: 4, user: 5, assistant: 6};
const MEDIA = {image: [9, IMAGE, 10], audio: [14, AUDIO, 15]};

/** A tokenizer of `tokenizer.json`: `{kind: "bytes"}`, or `{kind: "sentencepiece", pieces, scores}` of byte-pair pieces. */
export class Tokenizer {
  constructor({kind, pieces = [], scores = []}) {
    this.lead = kind === "bytes" ? "" : " ";
    this.size = FIRST_PIECE + pieces.length;
    this.utf8 = new TextEncoder();
    this.ids = new Map(pieces.map((piece, number) => [piece, FIRST_PIECE + number]));
    this.scores = new Map(pieces.map((piece, number) => [piece, scores[number]]));
    this.bytes = Array.from({length: this.size}, (_, id) => {
      if (id < NUM_SPECIALS) return new Uint8Array(0);
      return id < FIRST_PIECE ? Uint8Array.of(id - NUM_SPECIALS) : this.utf8.encode(pieces[id - FIRST_PIECE].replaceAll(MARK, " "));
    });
  }

  encode(text) {
    // Line ends and the mark itself are never part of a piece.
    return text.split(/([\r\n▁])/).flatMap((part, number) => number % 2 ? this.asBytes(part) : this.segment(part));
  }

  asBytes(text) { return Array.from(this.utf8.encode(text), byte => NUM_SPECIALS + byte); }

  /** Joins the pair with the highest score, the leftmost of equals, until no pair is a piece. */
  segment(text) {
    if (!this.ids.size) return this.asBytes(text);
    const symbols = Array.from(text.replaceAll(" ", MARK));
    for (;;) {
      let best = -1, score = -Infinity;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const found = this.scores.get(symbols[i] + symbols[i + 1]);
        if (found !== undefined && found > score) { best = i; score = found; }
      }
      if (best < 0) break;
      symbols.splice(best, 2, symbols[best] + symbols[best + 1]);
    }
    return symbols.flatMap(symbol => this.ids.has(symbol) ? [this.ids.get(symbol)] : this.asBytes(symbol.replaceAll(MARK, " ")));
  }

  decode(tokens) {
    const parts = tokens.map(token => this.bytes[token]);
    const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let place = 0;
    for (const part of parts) { joined.set(part, place); place += part.length; }
    return new TextDecoder().decode(joined);
  }

  /** The text of a turn, without the space that the template puts before it. */
  decodeTurn(tokens) {
    const text = this.decode(tokens);
    return this.lead && text.startsWith(this.lead) ? text.slice(this.lead.length) : text;
  }
}

/** Positions of the tokens of an image: one time, numbered by row and column. */
export function imageSpan([rows, columns]) {
  const offsets = [];
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) offsets.push([0, row, column]);
  return {offsets, extent: Math.max(rows, columns)};
}

/** Positions of the tokens of audio, in steps of 80 ms. */
export function audioSpan(melFrames, framesPerToken) {
  const step = framesPerToken * TICKS / MEL_RATE, count = Math.ceil(melFrames / framesPerToken);
  const offsets = Array.from({length: count}, (_, i) => Array(3).fill(Math.fround(i * step)));
  return {offsets, extent: Math.ceil(offsets.at(-1)[0]) + 1};
}

/**
 * A conversation as `{tokens, positions}`, positions [time, row, column] of each token, up to the start of an answer.
 * Parts of messages are `{type: "text", text}` or `{type: "image" | "audio", span}`.
 */
export function encodeChat(tokenizer, messages) {
  const tokens = [], positions = [];
  let next = 0;
  const add = ids => { for (const id of ids) { tokens.push(id); positions.push([next, next, next]); next += 1; } };
  add([BOS]);
  for (const {role, content} of messages) {
    add([ROLES[role]]);
    let previous = null;
    for (const part of typeof content === "string" ? [{type: "text", text: content}] : content) {
      if (part.type === "text") {
        add(tokenizer.encode((part.text && previous !== "text" ? tokenizer.lead : "") + part.text));
      } else {
        const [start, slot, end] = MEDIA[part.type];
        add([start]);
        for (const offset of part.span.offsets) { tokens.push(slot); positions.push(offset.map(one => next + one)); }
        next += part.span.extent;
        add([end]);
      }
      previous = part.type;
    }
    add([END]);
  }
  add([ROLES.assistant]);
  return {tokens, positions};
}

const APOSTROPHES = /[’ʼ`´]/g, INVISIBLE = /[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "=": " equals "};
const ACCENT = "(?![\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}])[\\p{Mn}\\p{Mc}]";   // or a vowel sign
const MARKS = new RegExp(
  `(?<![\\p{L}\\p{N}_])'|'(?![\\p{L}\\p{N}_])|(?!(?<=\\p{L}(?:${ACCENT})*)${ACCENT})[^\\p{L}\\p{N}_\\s']|_`, "gu");
const SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
  "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"];
const TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

const THOUSANDS = ["", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion", " sextillion",
  " septillion", " octillion", " nonillion", " decillion"];
const ORDINALS = {ty: "tieth", one: "first", two: "second", three: "third", five: "fifth", eight: "eighth", nine: "ninth",
  twelve: "twelfth"};
const NUMBER = /[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:st|nd|rd|th)?(?![\p{L}\p{N}_])|[0-9]+/giu;
const LARGEST = 36;

/** A number in English words, as omni.text.normalization has it; of more than 36 characters, digit by digit. */
function spelledNumber(number) {
  const plain = number.replaceAll(",", "").toLowerCase();
  if (plain.length > LARGEST) return Array.from(plain.match(/[0-9.]/g), one => SMALL[one] ?? "point").join(" ");
  const [, digits, decimals, suffix] = plain.match(/^([0-9]+)(?:\.([0-9]+))?([a-z]*)$/);
  let words = spelledWhole(digits);
  if (suffix) {
    const ordinal = words.replace(/(ty|one|two|three|five|eight|nine|twelve)$/, end => ORDINALS[end]);
    words = ordinal === words ? `${words}th` : ordinal;
  }
  return decimals ? [words, "point", ...Array.from(decimals, digit => SMALL[digit])].join(" ") : words;
}

function spelledWhole(digits) {
  const parts = [];
  for (let end = digits.length, thousands = 0; end > 0; end -= 3, thousands++) {
    const group = Number(digits.slice(Math.max(0, end - 3), end));
    if (group) parts.unshift(spelledGroup(group) + THOUSANDS[thousands]);
  }
  return parts.join(" ") || "zero";
}

/** 1 to 999. */
function spelledGroup(value) {
  const hundreds = Math.floor(value / 100), rest = value % 100, small = rest < 20 ? rest : rest % 10, parts = [];
  if (hundreds) parts.push(SMALL[hundreds], "hundred");
  if (rest >= 20) parts.push(TENS[Math.floor(rest / 10)]);
  if (small) parts.push(SMALL[small]);
  return parts.join(" ");
}

/** Text in the characters of a Talker or recogniser; characters that it does not know are left out. */
export class Characters {
  constructor({characters, normalization}) {
    this.characters = Array.from(characters);
    this.numbers = new Map(this.characters.map((character, number) => [character, number + 1]));
    this.normalization = normalization;
  }

  normalize(text) {
    const {digits, punctuation, case: letters, language = "en"} = this.normalization;
    const english = language.startsWith("en");   // in other languages digits and signs are left out
    text = text.replace(INVISIBLE, "").normalize("NFKC").replace(APOSTROPHES, "'");
    if (digits === "spell" && english) text = text.replace(NUMBER, found => ` ${spelledNumber(found)} `);
    if (punctuation === "remove") {
      if (english) for (const [sign, word] of Object.entries(SIGNS)) text = text.replaceAll(sign, word);
      text = text.replace(MARKS, " ");
    }
    if (letters === "lower") text = /^(tr|az)/.test(language) ? text.toLocaleLowerCase("tr") : text.toLowerCase();
    if (letters === "upper") text = text.toUpperCase();
    return text.split(/\s+/).filter(Boolean).join(" ");
  }

  /** The units of a text, 0 never among them. */
  encode(text) {
    let normal = this.normalize(text);
    if (!this.knows(normal)) {
      const known = one => this.knows(this.normalize(one)) ? one : one.normalize("NFKD").replace(/\p{M}/gu, "");
      normal = this.normalize(text.normalize("NFC").replace(/.[\u0300-\u036f]*/gsu, known));
    }
    return Array.from(normal).map(character => this.numbers.get(character)).filter(number => number !== undefined);
  }

  knows(normal) { return Array.from(normal).every(character => this.numbers.has(character)); }

  decode(units) { return units.filter(unit => unit).map(unit => this.characters[unit - 1]).join(""); }
}
