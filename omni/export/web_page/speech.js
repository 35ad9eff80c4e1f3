// Speech of a text with the Talker, the codec and the vocoder, as omni.decoding.talker and omni.inference have it.
import {Trimmer} from "./audio.js";

const CHUNK = 16, LEAD = 0.16, PAUSE = 0.25;  // LEAD: seconds that are decoded at once

/** Sentences of a text, and clauses of long ones. */
export function clauses(text) {
  return text.split(/(?<=[.!?;:])\s+|\n+/).flatMap(part => part.length > 120 ? part.split(/(?<=,)\s+/) : [part]).filter(part => part.trim());
}

/**
 * The frames of a text, `{codes, position}` one after the other.
 * `parts.run(name, inputs)` runs a graph; `draw` returns uniform numbers; `speaker` is the number of a voice;
 * `sampling` has temperature, top_k and top_p of the first codebook, the others, and the advance.
 */
export async function* frames(parts, units, {draw = Math.random, speaker = 0, sampling} = {}) {
  const {num_codebooks: codebooks, frame_rate: rate, max_dwell: dwell, num_speakers: voices, dim, ...constants} = parts.constants("talker");
  const text = parts.int64(units, [1, units.length]), lengths = parts.int64([units.length], [1]);
  const voice = voices ? {speakers: parts.int64([speaker], [1])} : {};
  const {encoded} = await parts.run("talker_text", {text, text_lengths: lengths, ...voice});
  const options = parts.float32((sampling ?? constants.sampling).flat(), [3, 3]), longest = Math.max(1, Math.floor(dwell * rate));
  let past = parts.start("talker", "past"), before = parts.int64(Array(codebooks).fill(-1), [1, codebooks]);
  let position = 0, dwelt = 0;
  while (position < units.length + 2) {
    const characters = parts.float32(encoded.data.slice(position * dim, (position + 1) * dim), [1, dim]);
    const draws = parts.float32(Array.from({length: codebooks + 1}, draw), [1, codebooks + 1]);
    const {codes, advances, present} = await parts.run("talker", {before, characters, draws, sampling: options, past});
    yield {codes: Array.from(codes.data, Number), position};
    let steps = Number(advances.data[0]);
    dwelt += 1;
    if (dwelt >= longest) steps = Math.max(1, steps);
    if (steps) dwelt = 0;
    position += steps;
    before = codes;
    past = present;
  }
}

/** The samples of a text, at the sample rate of the vocoder, in growing chunks that can be played one after the other. */
export async function* speak(parts, units, options = {}) {
  const {num_codebooks: codebooks, frame_rate: rate} = parts.constants("talker"), {delay, sample_rate: sampleRate} = parts.constants("vocoder");
  const trimmer = new Trimmer(sampleRate), waiting = [];
  let codec = parts.start("codec_decoder", "past"), past = parts.start("vocoder", "past"), tail = parts.start("vocoder", "tail");
  let size = Math.max(1, Math.min(CHUNK, Math.round(LEAD * rate))), skip = delay;
  const play = samples => {
    const kept = samples.slice(Math.min(skip, samples.length));
    skip -= samples.length - kept.length;
    return trimmer.push(kept);
  };
  const render = async () => {
    const codes = parts.int64(waiting.flat(), [1, waiting.length, codebooks]);
    waiting.length = 0;
    const decoded = await parts.run("codec_decoder", {codes, past: codec});
    codec = decoded.present;
    const made = await parts.run("vocoder", {mels: decoded.mels, past, tail});
    [past, tail] = [made.present, made.new_tail];
    return play(made.samples.data);
  };
  for await (const {codes} of frames(parts, units, options)) {
    waiting.push(codes);
    if (waiting.length === size) {
      yield await render();
      size = trimmer.started ? Math.min(2 * size, CHUNK) : 1;
    }
  }
  if (waiting.length) yield await render();
  yield play(tail.data.slice(0, delay));
  yield trimmer.finish();
}

/** Silence between two clauses, at a sample rate. */
export const pause = rate => new Float32Array(PAUSE * rate);
