// Answers of the Thinker to text, pictures and speech, as omni.inference.responder generates them: greedy.
import {AUDIO, END, IMAGE, audioSpan, encodeChat, imageSpan} from "./text.js";

/** The embeddings of a picture, (tokens, dim), and the positions of its tokens. */
export async function seen(parts, pixels) {
  const {size, grid} = parts.constants("image_embeddings");
  const {embeddings} = await parts.run("image_embeddings", {images: parts.float32(pixels, [1, 3, size, size])});
  return {type: "image", embeddings: embeddings.data, span: imageSpan(grid)};
}

/** The embeddings of a spectrogram `{data, frames}`, and the positions of its tokens. */
export async function heard(parts, {data, frames}) {
  const {mel: {num_mels: numMels}, mel_frames: framesPerToken} = parts.constants("audio_embeddings");
  const mels = parts.float32(data, [1, frames, numMels]), lengths = parts.int64([frames], [1]);
  const {embeddings} = await parts.run("audio_embeddings", {mels, lengths});
  return {type: "audio", embeddings: embeddings.data, span: audioSpan(frames, framesPerToken)};
}

/** Generates an answer and yields its text so far; parts of messages as of `encodeChat`, media from `seen` and `heard`. */
export async function* answer(parts, tokenizer, messages, {maxTokens = 96} = {}) {
  const {dim, rope_axes: axes} = parts.constants("omni_thinker");
  const {tokens: prompt, positions} = encodeChat(tokenizer, messages);
  let tokens = prompt, media = placed(prompt, messages, dim), places = positions, past = parts.start("omni_thinker", "past");
  const found = [];
  for (;;) {
    const feeds = {tokens: parts.int64(tokens, [1, tokens.length]), media: parts.float32(media, [1, tokens.length, dim]), past};
    if (axes === 3) feeds.positions = parts.float32([0, 1, 2].flatMap(axis => places.map(place => place[axis])), [3, 1, tokens.length]);
    const {logits, present} = await parts.run("omni_thinker", feeds);
    const token = largest(logits.data.subarray(0, tokenizer.size));
    if (token === END) return;
    found.push(token);
    yield tokenizer.decodeTurn(found);
    if (found.length === maxTokens) return;
    [tokens, media, past] = [[token], new Float32Array(dim), present];
    places = [Array(3).fill(Math.max(...places.at(-1)) + 1)];
  }
}

/** The embeddings of media at the places of their tokens, (tokens, dim); zeros elsewhere. */
function placed(tokens, messages, dim) {
  const media = messages.flatMap(({content}) => typeof content === "string" ? [] : content.filter(part => part.embeddings));
  const features = media.flatMap(({embeddings}) => Array.from({length: embeddings.length / dim}, (_, i) => embeddings.subarray(i * dim, (i + 1) * dim)));
  const slots = tokens.flatMap((token, index) => token === IMAGE || token === AUDIO ? [index] : []);
  const result = new Float32Array(tokens.length * dim);
  slots.forEach((slot, number) => result.set(features[number], slot * dim));
  return result;
}

function largest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
