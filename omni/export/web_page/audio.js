// Audio at 16 kHz as omni.media has it: log-mel spectrograms (omni.media.audio), trimming of silence (omni.media.trimming).

/** Triangles of height 1, evenly spaced on Slaney's mel scale: one Float64Array of bins for each filter. */
function melFilters({num_mels: numMels, sample_rate: rate, n_fft: size}) {
  const step = Math.log(6.4) / 27, last = 15 + Math.log(rate / 2 / 1000) / step;
  const corner = number => {
    const mel = number * last / (numMels + 1);
    return mel < 15 ? mel * 200 / 3 : 1000 * Math.exp(step * (mel - 15));
  };
  return Array.from({length: numMels}, (_, filter) => {
    const [low, centre, high] = [corner(filter), corner(filter + 1), corner(filter + 2)];
    return Float64Array.from({length: size / 2 + 1}, (_, bin) => {
      const hertz = bin * rate / size;
      return Math.max(0, Math.min((hertz - low) / (centre - low), (high - hertz) / (high - centre)));
    });
  });
}

/** The discrete Fourier transform of `size` real values, a power of two. */
class FFT {
  constructor(size) {
    this.size = size;
    this.cos = Float64Array.from({length: size / 2}, (_, i) => Math.cos(2 * Math.PI * i / size));
    this.sin = Float64Array.from({length: size / 2}, (_, i) => -Math.sin(2 * Math.PI * i / size));
    const bits = Math.log2(size);
    this.places = Uint32Array.from({length: size}, (_, i) => {
      let place = 0;
      for (let bit = 0; bit < bits; bit++) if (i >> bit & 1) place |= 1 << (bits - 1 - bit);
      return place;
    });
    this.re = new Float64Array(size);
    this.im = new Float64Array(size);
  }

  /** Leaves the transform in `re` and `im`. */
  transform(values) {
    const {size, cos, sin, re, im} = this;
    for (let i = 0; i < size; i++) { re[this.places[i]] = values[i]; im[i] = 0; }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let i = 0; i < half; i++) {
          const a = start + i, b = a + half, c = cos[i * stride], s = sin[i * stride];
          const real = re[b] * c - im[b] * s, imaginary = re[b] * s + im[b] * c;
          re[b] = re[a] - real; im[b] = im[a] - imaginary;
          re[a] += real; im[a] += imaginary;
        }
      }
    }
  }
}

/** The log-mel spectrogram: `constants` are those of the export, with `num_mels`. */
export class LogMel {
  constructor(constants) {
    Object.assign(this, {constants, filters: melFilters(constants), fft: new FFT(constants.n_fft)});
    this.window = Float64Array.from({length: constants.n_fft}, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / constants.n_fft));
    // A filter covers few bins.
    this.spans = this.filters.map(filter => {
      const used = [...filter.keys()].filter(bin => filter[bin] > 0);
      return used.length ? [used[0], used.at(-1) + 1] : [0, 0];
    });
  }

  /** Maps samples at 16 kHz to `{data, frames}`: (frames, num_mels) in a Float32Array. */
  compute(samples) {
    const {n_fft: size, hop_length: hop, num_mels: numMels, floor, mean, std} = this.constants;
    const frames = Math.ceil(samples.length / hop), margin = (size - hop) / 2;
    const data = new Float32Array(frames * numMels), part = new Float64Array(size), magnitude = new Float64Array(size / 2 + 1);
    for (let frame = 0; frame < frames; frame++) {
      const start = frame * hop - margin;
      for (let i = 0; i < size; i++) part[i] = (samples[start + i] ?? 0) * this.window[i];
      this.fft.transform(part);
      for (let bin = 0; bin <= size / 2; bin++) magnitude[bin] = Math.hypot(this.fft.re[bin], this.fft.im[bin]);
      for (let mel = 0; mel < numMels; mel++) {
        let sum = 0;
        const [first, end] = this.spans[mel], filter = this.filters[mel];
        for (let bin = first; bin < end; bin++) sum += magnitude[bin] * filter[bin];
        data[frame * numMels + mel] = (Math.log(Math.max(sum, floor)) - mean) / std;
      }
    }
    return {data, frames};
  }
}

const QUIET = 0.002, MARGIN = 3, SECONDS = 0.01;  // of a block
const clipped = samples => samples.map(sample => Math.max(-1, Math.min(1, sample)));
const ramp = (place, fade) => Math.sin(Math.PI / 2 * place / (fade - 1));

export function joined(parts) {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) { whole.set(part, place); place += part.length; }
  return whole;
}

/** Removes silence from both ends of a stream of samples, but for 30 ms, fades the ends, and clips samples at ±1. */
export class Trimmer {
  constructor(rate = 16_000) {
    this.block = Math.round(SECONDS * rate);
    this.fade = this.block / 2;
    this.started = false;
    this.kept = new Float32Array(0);
  }

  /** Adds samples; returns those that are ready. */
  push(samples) {
    const {block, fade} = this, buffer = joined([this.kept, samples]), blocks = Math.floor(buffer.length / block);
    const loud = [...Array(blocks).keys()].filter(number => buffer.subarray(number * block, (number + 1) * block).some(one => Math.abs(one) >= QUIET));
    if (!loud.length) {
      this.kept = this.started ? buffer : buffer.slice(Math.max(0, blocks - MARGIN) * block);
      return new Float32Array(0);
    }
    let first = 0;
    if (!this.started) {
      this.started = true;
      first = Math.max(0, loud[0] - MARGIN) * block;
      for (let i = 0; i < fade; i++) buffer[first + i] *= ramp(i, fade);
    }
    this.kept = buffer.slice(loud.at(-1) * block);
    return clipped(buffer.slice(first, loud.at(-1) * block));
  }

  /** The rest; empty if nothing was loud. */
  finish() {
    const {block, fade} = this, ready = this.push(new Float32Array((block - this.kept.length % block) % block));
    const rest = this.kept.slice(0, (1 + MARGIN) * block);
    if (!this.started) return new Float32Array(0);
    for (let i = 0; i < fade; i++) rest[rest.length - 1 - i] *= ramp(i, fade);
    return joined([ready, clipped(rest)]);
  }
}

/** The samples of a recording in any format that the browser plays: 16 kHz, channels averaged. */
export async function decode(bytes, rate = 16_000) {
  const context = new OfflineAudioContext(1, 1, rate);
  const buffer = await context.decodeAudioData(bytes);
  const samples = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const data = buffer.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) samples[i] += data[i] / buffer.numberOfChannels;
  }
  return samples;
}
