// Audio threads of the page. They copy, count and fade; resampling is the server's.

const FRAME_S = 0.02;

// Microphone -> 16-bit frames. Without a microphone, or muted, it sends silence, so that time goes on at the other end.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.frame = new Int16Array(Math.round(sampleRate * FRAME_S));
    this.filled = 0;
    this.power = 0;
    this.open = true;
    this.port.onmessage = (event) => { this.open = event.data.open; };
  }

  process(inputs) {
    const channel = this.open ? inputs[0][0] : undefined;
    const count = channel ? channel.length : 128;
    for (let i = 0; i < count; i++) {
      const sample = channel ? Math.max(-1, Math.min(1, channel[i])) : 0;
      this.power += sample * sample;
      this.frame[this.filled++] = sample * 32767;
      if (this.filled === this.frame.length) {
        const sent = this.frame.slice().buffer;
        this.port.postMessage({ pcm: sent, level: Math.sqrt(this.power / this.filled) }, [sent]);
        this.filled = 0;
        this.power = 0;
      }
    }
    return true;
  }
}

// One reply at a time -> loudspeaker. Tells how many of its samples were taken.
class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.fadeIn = Math.round(0.005 * sampleRate);
    this.begin(0);
    this.last = 0; // the sample that sounded last; decays when there is nothing to play
    this.sinceReport = 0;
    this.power = 0;
    this.port.onmessage = (event) => this.order(event.data);
  }

  begin(reply) {
    this.reply = reply;
    this.chunks = [];
    this.offset = 0; // within the first chunk
    this.taken = 0;
    this.received = 0;
    this.complete = false;
    this.dry = true;
    this.underruns = 0;
    this.ramp = 0; // samples since sound came back
    this.fadeOut = -1; // samples left until silence, -1: none ordered
    this.gain = this.wantedGain = 1;
    this.gainStep = 0; // towards the wanted gain, each sample
    this.told = false;
  }

  order(message) {
    if (message.type === "audio") {
      if (message.reply < this.reply) return;
      if (message.reply > this.reply) this.begin(message.reply);
      const pcm = new Int16Array(message.pcm);
      const skip = this.received - message.start; // sent again after a broken connection
      if (this.fadeOut >= 0 || skip < 0) return;
      if (skip < pcm.length) this.chunks.push(skip ? pcm.subarray(skip) : pcm);
      this.received = Math.max(this.received, message.start + pcm.length);
      this.complete = this.complete || message.last;
      this.told = false;
    } else if (message.type === "duck" && message.reply === this.reply) {
      this.wantedGain = message.gain;
      this.gainStep = (message.gain - this.gain) / Math.max(1, Math.round(message.fade_ms * sampleRate / 1000));
    } else if (message.type === "flush" && message.reply === this.reply) {
      this.fade = Math.max(1, Math.round(message.fade_ms * sampleRate / 1000));
      this.fadeOut = this.fade;
      this.complete = true;
    }
  }

  next() {
    const chunk = this.chunks[0];
    const sample = chunk[this.offset++] / 32768;
    if (this.offset >= chunk.length) {
      this.chunks.shift();
      this.offset = 0;
    }
    this.taken++;
    return sample;
  }

  process(_, outputs) {
    const out = outputs[0];
    for (let i = 0; i < out[0].length; i++) {
      let sample;
      if (this.chunks.length) {
        if (this.dry) {
          this.dry = false;
          this.ramp = this.taken ? 0 : this.fadeIn;
        }
        sample = this.next() * Math.min(1, this.ramp++ / this.fadeIn);
        if (this.gain !== this.wantedGain) {
          this.gain += this.gainStep;
          if ((this.gain - this.wantedGain) * this.gainStep >= 0) this.gain = this.wantedGain;
        }
        sample *= this.gain;
        if (this.fadeOut >= 0) sample *= this.fadeOut / this.fade;
      } else {
        if (!this.dry) {
          this.dry = true;
          if (!this.complete) this.underruns++;
        }
        sample = this.last * 0.97;
      }
      if (this.fadeOut > 0 && --this.fadeOut === 0) {
        this.chunks = [];
        this.offset = 0;
      }
      this.last = sample;
      this.power += sample * sample;
      for (const channel of out) channel[i] = sample;
    }
    this.sinceReport += out[0].length;
    const over = this.complete && !this.chunks.length;
    if (this.sinceReport >= 0.05 * sampleRate || (over && !this.told)) {
      this.port.postMessage({
        reply: this.reply, samples: this.taken, received: this.received, underruns: this.underruns,
        level: Math.sqrt(this.power / this.sinceReport), fresh: !this.told && this.reply > 0,
      });
      this.told = over || this.dry;
      this.sinceReport = 0;
      this.power = 0;
    }
    return true;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playback", Playback);
