// The page: a question, typed or spoken, about a picture or none, answered in writing and aloud. Nothing leaves the browser.
import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import {answer, heard, seen} from "./answer.js";
import {LogMel, decode as decodeAudio, joined} from "./audio.js";
import {decode as decodeImage, preprocessed} from "./image.js";
import {Parts} from "./parts.js";
import {clauses, pause, speak} from "./speech.js";
import {Characters, Tokenizer} from "./text.js";

const RATE = 16_000;  // of recordings; speech has the rate of the vocoder
const $ = id => document.getElementById(id);
const page = {ready: false, picture: null, last: null};
window.omniPage = page;  // for tests and for the console

ort.env.wasm.numThreads = 1;  // more need headers that a plain file host does not send

/** onnxruntime's WebAssembly, which is compressed in the export. */
async function runtime() {
  const response = await fetch("ort/ort-wasm-simd-threaded.wasm.gz");
  if (!response.ok) throw new Error(`ort/ cannot be read (${response.status}): serve the whole exported folder`);
  const bytes = await response.arrayBuffer(), start = new Uint8Array(bytes, 0, 2);
  if (start[0] !== 0x1f || start[1] !== 0x8b) return bytes;  // a host that has decompressed it
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function load() {
  ort.env.wasm.wasmBinary = await runtime();
  page.parts = await Parts.open(ort, "./", (name, share) => { $("state").textContent = `loading ${name} (${Math.round(100 * share)} %)`; });
  page.tokenizer = new Tokenizer(page.parts.manifest.web.tokenizer);
  page.speaks = page.parts.has("talker");
  if (page.speaks) page.characters = new Characters(page.parts.manifest.web.characters);
  page.sees = page.parts.has("image_embeddings");
  page.hears = page.parts.has("audio_embeddings");
  if (page.hears) page.mel = new LogMel(page.parts.constants("audio_embeddings").mel);
  $("choose").disabled = !page.sees;
  $("hold").disabled = !page.hears;
  $("aloud").disabled = !page.speaks;
  $("send").disabled = false;
  $("state").textContent = "ready: it runs here, and nothing is sent anywhere";
  page.ready = true;
}

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function show(role, heading) {
  const message = element("section", undefined, `message ${role}`), body = element("div");
  message.append(element("h2", heading), body);
  $("log").append(message);
  message.scrollIntoView({block: "end"});
  return body;
}

/** Plays samples one after the other, as they come. */
class Player {
  constructor(rate) { this.rate = rate; this.context = new AudioContext(); this.end = 0; this.samples = []; }
  add(samples) {
    if (!samples.length) return;
    this.samples.push(samples);
    const buffer = this.context.createBuffer(1, samples.length, this.rate), source = this.context.createBufferSource();
    buffer.copyToChannel(samples, 0);
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.end = Math.max(this.end, this.context.currentTime);
    source.start(this.end);
    this.end += buffer.duration;
  }
}

function wav(samples, rate) {
  const bytes = new ArrayBuffer(44 + 2 * samples.length), view = new DataView(bytes);
  const text = (place, value) => [...value].forEach((one, i) => view.setUint8(place + i, one.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  [16, 1 | 1 << 16, rate, 2 * rate, 2 | 16 << 16].forEach((value, i) => view.setUint32(16 + 4 * i, value, true));
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true));
  return new Blob([bytes], {type: "audio/wav"});
}

function sound(samples, rate) {
  const played = element("audio");
  played.controls = true;
  played.src = URL.createObjectURL(wav(samples, rate));
  return played;
}

/** Asks a question: `text`, or `samples` of speech at 16 kHz; about the picture that was chosen, if any. */
async function ask({text = "", samples = null}) {
  const shown = show("user", "You"), content = [], began = performance.now(), times = {};
  if (page.picture) {
    const image = element("img");
    image.src = page.picture.url; image.alt = page.picture.name;
    shown.append(image);
  }
  if (samples) shown.append(sound(samples, RATE));
  shown.append(element("div", text));
  const body = show("omni", "omni"), line = element("div");
  body.append(line);
  if (page.picture) content.push(await seen(page.parts, preprocessed(await decodeImage(page.picture.blob), page.parts.constants("image_embeddings"))));
  if (samples) content.push(await heard(page.parts, page.mel.compute(samples)));
  if (text) content.push({type: "text", text});
  let written = "";
  for await (const soFar of answer(page.parts, page.tokenizer, [{role: "user", content}])) {
    times["first token"] ??= performance.now() - began;
    line.textContent = written = soFar;
  }
  times.text = performance.now() - began;
  if (page.speaks && $("aloud").checked && written.trim()) await sayAloud(written, body, times, began);
  body.append(element("div", Object.entries(times).map(([name, value]) => `${name} ${Math.round(value)} ms`).join(" · "), "times"));
  page.last = {...times, answer: written};
}

async function sayAloud(written, body, times, began) {
  const rate = page.parts.constants("vocoder").sample_rate, player = new Player(rate);
  for (const clause of clauses(written)) {
    const units = page.characters.encode(clause);
    if (!units.length) continue;
    if (player.samples.length) player.add(pause(rate));
    for await (const chunk of speak(page.parts, units)) {
      if (chunk.length) times["first sound"] ??= performance.now() - began;
      player.add(chunk);
    }
  }
  times.speech = performance.now() - began;
  page.spoken = joined(player.samples);
  if (page.spoken.length) body.append(sound(page.spoken, rate));
}

/** One question at a time; an error is shown in the conversation. */
async function submit(question) {
  $("send").disabled = $("hold").disabled = true;
  try { await ask(question); }
  catch (error) { show("omni", "Error").append(element("div", error.message, "error")); }
  $("send").disabled = false;
  $("hold").disabled = !page.hears;
}

let recorder = null;
async function startTalking() {
  if (recorder || $("hold").disabled) return;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({audio: {echoCancellation: true, noiseSuppression: true, autoGainControl: true}});
    const made = recorder = new MediaRecorder(stream), pieces = [];
    made.ondataavailable = event => pieces.push(event.data);
    made.onstop = async () => {
      for (const track of stream.getTracks()) track.stop();
      recorder = null;
      try { await submit({samples: await decodeAudio(await new Blob(pieces).arrayBuffer(), RATE)}); }
      catch (error) { show("omni", "Error").append(element("div", `the recording cannot be used: ${error.message}`, "error")); }
    };
    made.start();
    $("hold").setAttribute("aria-pressed", "true");
    $("hold").textContent = "Listening";
  } catch (error) { show("omni", "Error").append(element("div", `the microphone cannot be used: ${error.message}`, "error")); }
}
function stopTalking() {
  if (recorder?.state === "recording") recorder.stop();
  $("hold").removeAttribute("aria-pressed");
  $("hold").textContent = "Hold to talk";
}

function choose(blob) {
  if (!blob?.type.startsWith("image/")) return;
  page.picture = {blob, name: blob.name ?? "picture", url: URL.createObjectURL(blob)};
  const image = element("img"), remove = element("button", "Remove");
  image.src = page.picture.url; image.alt = page.picture.name;
  remove.type = "button";
  remove.onclick = () => { page.picture = null; $("picture").replaceChildren(); };
  $("picture").replaceChildren(image, " ", remove);
}

$("form").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || $("send").disabled) return;
  $("text").value = "";
  submit({text});
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { choose($("file").files[0]); $("file").value = ""; });
$("hold").addEventListener("pointerdown", event => { $("hold").setPointerCapture(event.pointerId); startTalking(); });
for (const name of ["pointerup", "pointercancel"]) $("hold").addEventListener(name, stopTalking);
$("hold").addEventListener("keydown", event => { if ([" ", "Enter"].includes(event.key)) { event.preventDefault(); if (!event.repeat) startTalking(); } });
$("hold").addEventListener("keyup", event => { if ([" ", "Enter"].includes(event.key)) stopTalking(); });
document.addEventListener("paste", event => choose(event.clipboardData.files[0]));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => { event.preventDefault(); choose(event.dataTransfer.files[0]); });
load().catch(error => { $("state").textContent = error.message; $("state").className = "error"; });
