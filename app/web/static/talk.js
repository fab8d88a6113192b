// The conversation panel: microphone and loudspeaker over a WebSocket, and the view of what is said.

const HEADER_BYTES = 12;
const RATE_24K = 24000;
const SHOWN_TURNS = 24; // in the latency history
const STAGES = [
  ["end_of_turn_s", "end of turn"], ["asr_s", "recogniser"], ["llm_first_token_s", "first word"],
  ["text_to_token_s", "text to speech tokens"], ["decoder_s", "decoder"], ["output_s", "output"],
];
const STATES = {
  idle: "Ready", connecting: "Connecting", waiting: "Waiting for a place", listening: "Listening",
  "user speaking": "Hearing you", thinking: "Thinking", "bot speaking": "Speaking", reconnecting: "Reconnecting",
  error: "Stopped",
};
const KEPT_SESSION = "assistant-session";
const KEPT_SETTINGS = "assistant-settings";

const $ = (id) => document.getElementById(id);
const stored = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };
const store = (key, value) => {
  try { if (value === null) sessionStorage.removeItem(key); else sessionStorage.setItem(key, value); } catch { /* private mode */ }
};
const ms = (seconds) => `${Math.round(1000 * seconds)} ms`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

class Assistant {
  constructor() {
    this.page = Math.random().toString(36).slice(2);
    this.session = stored(KEPT_SESSION);
    this.settings = JSON.parse(stored(KEPT_SETTINGS) || "{}");
    this.state = "idle";
    this.turns = new Map();
    this.turnOf = new Map(); // reply -> turn
    this.playing = { reply: 0, samples: 0, received: 0 };
    this.wanted = false; // to be connected
    this.muted = false;
    this.unsent = [];
    this.attempts = 0;
  }

  // page

  bind() {
    this.panel = $("va");
    if (!this.panel || this.panel.dataset.bound) return;
    this.panel.dataset.bound = "yes";
    $("va-talk").onclick = () => (this.wanted && this.hasMicrophone ? this.leave() : this.start(true));
    $("va-mute").onclick = () => this.mute(!this.muted);
    $("va-stop").onclick = () => this.send({ type: "stop" });
    $("va-reset").onclick = () => this.send({ type: "reset" });
    $("va-form").onsubmit = async (event) => {
      event.preventDefault();
      const text = $("va-text").value.trim();
      if (!text) return;
      $("va-text").value = "";
      if (!this.wanted) await this.start(false);
      this.send({ type: "say", text });
    };
    this.show("idle");
    this.drawAll();
    if (this.session) this.recall();
  }

  // The conversation of this tab, if the server still has it.
  async recall() {
    try {
      const answer = await fetch(`/talk/${this.session}/turns.json`);
      if (!answer.ok) throw new Error("gone");
      for (const turn of await answer.json()) this.turns.set(turn.turn, turn);
      this.links();
    } catch {
      this.session = null;
      store(KEPT_SESSION, null);
    }
    this.drawAll();
    this.buttons();
  }

  // sound

  async start(withMicrophone) {
    this.notice("");
    this.wanted = true;
    if (!this.socket) this.show("connecting");
    try {
      if (!this.context) await this.openSound();
      await this.context.resume();
      if (withMicrophone && !this.hasMicrophone) await this.openMicrophone();
    } catch (error) {
      this.notice(error.message);
      if (!this.context || withMicrophone && !this.socket) {
        this.wanted = false;
        this.show("error");
        return;
      }
    }
    if (!this.socket) this.connect();
    else this.buttons();
  }

  async openSound() {
    const context = new AudioContext({ latencyHint: "interactive" });
    if (!context.audioWorklet) throw new Error("This address is not secure, so the browser gives no sound: use localhost or HTTPS.");
    await context.audioWorklet.addModule("/talk/static/worklets.js");
    this.capture = new AudioWorkletNode(context, "capture", { numberOfInputs: 1, outputChannelCount: [1] });
    this.player = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [2] });
    this.capture.connect(context.destination); // silent; keeps it running
    this.player.connect(context.destination);
    this.capture.port.onmessage = ({ data }) => {
      if (this.socket?.readyState === WebSocket.OPEN && this.ready) this.socket.send(data.pcm);
      this.meter("va-in", data.level);
    };
    this.player.port.onmessage = ({ data }) => this.played(data);
    this.context = context;
  }

  async openMicrophone() {
    if (!navigator.mediaDevices) throw new Error("The browser gives no microphone to this address: use localhost or HTTPS. You can type.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
      });
    } catch (error) {
      throw new Error(error.name === "NotFoundError"
        ? "No microphone was found. Connect one, or type."
        : "The microphone is blocked. Allow it in the address bar, or type.");
    }
    this.source = this.context.createMediaStreamSource(stream);
    this.source.connect(this.capture);
    this.hasMicrophone = true;
    stream.getAudioTracks()[0].onended = () => {
      this.hasMicrophone = false;
      this.notice("The microphone is gone. Connect it again and press Start talking, or type.");
      this.buttons();
    };
  }

  closeSound() {
    this.source?.mediaStream.getTracks().forEach((track) => { track.onended = null; track.stop(); });
    this.context?.close();
    this.context = this.source = null;
    this.hasMicrophone = false;
    this.meter("va-in", 0);
    this.meter("va-out", 0);
  }

  mute(on) {
    this.muted = on;
    this.capture?.port.postMessage({ open: !on });
    this.send({ type: "mute", on });
    this.buttons();
  }

  played(report) {
    this.playing = report;
    this.meter("va-out", report.level);
    if (!report.fresh) return;
    const latency = (this.context?.outputLatency || this.context?.baseLatency || 0);
    this.send({
      type: "played", reply: report.reply, samples: report.samples, underruns: report.underruns, latency_s: latency,
    }, true);
    const turn = this.turns.get(this.turnOf.get(report.reply));
    if (turn && turn.heard === null) {
      turn.played = Math.max(0, report.samples / this.context.sampleRate - latency) * RATE_24K;
      this.highlight(turn);
    }
  }

  // connection

  connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/talk/ws`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.ready = false;
    socket.onopen = () => {
      socket.send(JSON.stringify({
        type: "hello", page: this.page, session: this.session, capture_hz: this.context.sampleRate,
        output_hz: this.context.sampleRate, reply: this.playing.reply || null, received: this.playing.received,
      }));
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.told(JSON.parse(data)) : this.audio(data));
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.ready = false;
      if (this.wanted) this.again();
    };
  }

  again() {
    this.show("reconnecting");
    const wait = Math.min(5000, 300 * 2 ** this.attempts++);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { if (this.wanted && !this.socket) this.connect(); }, wait);
  }

  leave() {
    this.wanted = false;
    clearTimeout(this.timer);
    this.send({ type: "bye" });
    this.socket?.close(1000);
    this.socket = null;
    this.session = null;
    store(KEPT_SESSION, null);
    this.closeSound();
    this.playing = { reply: 0, samples: 0, received: 0 };
    this.links();
    this.show("idle");
  }

  send(message, droppable = false) {
    if (this.socket?.readyState === WebSocket.OPEN && this.ready) this.socket.send(JSON.stringify(message));
    else if (!droppable && this.wanted) this.unsent.push(message);
  }

  audio(data) {
    const header = new DataView(data);
    const pcm = data.slice(HEADER_BYTES);
    this.player?.port.postMessage({
      type: "audio", reply: header.getUint32(0, true), start: header.getUint32(4, true),
      last: header.getUint8(8) === 1, pcm,
    }, [pcm]);
  }

  told(message) {
    const turn = message.turn === undefined ? null : this.turn(message.turn);
    switch (message.type) {
      case "ready": this.admitted(message); break;
      case "waiting": this.show("waiting", `Waiting for a place: ${message.position === 1 ? "you are next" : `number ${message.position}`}`); break;
      case "state": this.show(message.state); break;
      case "user": turn.user = message.text; turn.final = message.final; this.draw(turn); break;
      case "word": turn.words.push(message.text); this.draw(turn); break;
      case "timed": turn.times.push([message.token_end, message.sample_end]); break;
      case "speaking": this.turnOf.set(message.reply, message.turn); break;
      case "duck":
      case "flush": this.player?.port.postMessage(message); break;
      case "interrupted": turn.interrupted = true; turn.heard = message.heard; this.draw(turn); break;
      case "failed": turn.error = message.reason; this.draw(turn); break;
      case "turn": Object.assign(turn, message); this.draw(turn); this.drawLatency(); break;
      case "dismissed": this.dismiss(); break;
      case "cleared": this.turns.clear(); this.drawAll(); break;
      case "settings": this.settings = message.settings; store(KEPT_SETTINGS, JSON.stringify(this.settings)); break;
      case "notice": this.notice(message.reason); break;
      case "over": this.over(message.reason); break;
      case "ping": this.socket.send(JSON.stringify({ type: "pong", at: message.at })); break;
    }
  }

  admitted(message) {
    this.ready = true;
    this.attempts = 0;
    const known = message.session === this.session;
    this.session = message.session;
    store(KEPT_SESSION, this.session);
    this.turns = new Map(message.turns.map((turn) => [turn.turn, turn]));
    if (!known) { // a new conversation takes over what this page was set to
      this.turnOf.clear();
      this.replyBase();
      for (const [key, value] of Object.entries(this.settings)) {
        if (value !== message.settings[key]) this.send({ type: "set", key, value });
      }
    }
    if (message.muted !== this.muted) this.send({ type: "mute", on: this.muted });
    for (const waiting of this.unsent.splice(0)) this.send(waiting);
    this.show(message.state);
    this.links();
    this.drawAll();
  }

  // Replies of another conversation are counted from 1 again: the player must not take them for old ones.
  replyBase() {
    this.player.disconnect();
    this.player.port.onmessage = null;
    this.player = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0, outputChannelCount: [2] });
    this.player.connect(this.context.destination);
    this.player.port.onmessage = ({ data }) => this.played(data);
    this.playing = { reply: 0, samples: 0, received: 0 };
  }

  over(reason) {
    this.wanted = false;
    this.session = null;
    store(KEPT_SESSION, null);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.closeSound();
    this.notice(reason);
    this.show("error");
  }

  // settings (called by the components beside the panel)

  set(key, value) {
    if (value === null || value === undefined || this.settings[key] === value) return;
    this.settings[key] = value;
    store(KEPT_SETTINGS, JSON.stringify(this.settings));
    this.send({ type: "set", key, value }, true);
  }

  kept(keys, shown) {
    return keys.map((key, index) => this.settings[key] ?? shown[index]);
  }

  // view

  turn(number) {
    if (!this.turns.has(number)) {
      this.turns.set(number, {
        turn: number, user: "", final: false, words: [], times: [], heard: null, interrupted: false, error: null,
        voice_to_voice_s: null, waterfall: null,
      });
    }
    return this.turns.get(number);
  }

  dismiss() {
    for (const [number, turn] of this.turns) {
      if (!turn.final) {
        this.turns.delete(number);
        $(`va-turn-${number}`)?.remove();
      }
    }
    if (!this.turns.size) this.drawAll();
  }

  show(state, text) {
    this.state = state;
    this.panel.dataset.state = state;
    $("va-state").textContent = text || (this.muted && state === "listening" ? "Muted" : STATES[state] || state);
    this.buttons();
  }

  buttons() {
    const connected = this.wanted && !["connecting", "waiting"].includes(this.state);
    const talk = $("va-talk");
    const talking = this.wanted && this.hasMicrophone;
    talk.textContent = talking ? "End conversation" : this.session && this.turns.size ? "Continue talking" : "Start talking";
    talk.classList.toggle("va-ending", Boolean(talking));
    $("va-mute").disabled = !(connected && this.hasMicrophone);
    $("va-mute").setAttribute("aria-pressed", String(this.muted));
    $("va-mute").textContent = this.muted ? "Unmute" : "Mute";
    $("va-stop").disabled = !["thinking", "bot speaking"].includes(this.state);
    $("va-reset").disabled = !connected;
    if (this.state === "listening") $("va-state").textContent = this.muted ? "Muted" : STATES.listening;
  }

  notice(text) {
    $("va-notice").textContent = text;
    $("va-notice").hidden = !text;
  }

  meter(id, level) {
    const db = 20 * Math.log10(Math.max(level, 1e-4));
    const bar = $(id);
    if (bar) bar.style.transform = `scaleX(${Math.max(0, 1 + db / 60).toFixed(3)})`;
  }

  links() {
    $("va-links").hidden = !this.session;
    $("va-recording").href = `/talk/${this.session}/recording.wav`;
    $("va-trace").href = `/talk/${this.session}/trace.json`;
  }

  drawAll() {
    const list = $("va-turns");
    list.replaceChildren();
    if (!this.turns.size) {
      const empty = element("div", "va-empty");
      empty.append(
        element("p", "va-empty-title", "Ask something."),
        element("p", "", "Press Start talking and speak, for example: “What is the opposite of hot?”"),
      );
      list.append(empty);
    }
    for (const turn of this.turns.values()) this.draw(turn);
    this.drawLatency();
  }

  draw(turn) {
    const list = $("va-turns");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    list.querySelector(".va-empty")?.remove();
    let box = $(`va-turn-${turn.turn}`);
    if (!box) {
      box = element("article", "va-turn");
      box.id = `va-turn-${turn.turn}`;
      list.append(box);
    }
    const user = element("p", `va-said va-user${turn.final ? "" : " va-partial"}`, turn.user || "…");
    box.replaceChildren(user);
    if (turn.words.length || turn.heard !== null) box.append(this.reply(turn));
    if (turn.error) box.append(element("p", "va-error", turn.error));
    if (turn.waterfall) box.append(this.waterfall(turn));
    if (turn.heard === null) this.highlight(turn);
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  reply(turn) {
    const said = element("p", "va-said va-assistant");
    if (turn.heard === null) {
      turn.words.forEach((word, index) => said.append(element("span", "va-word va-coming", index ? word : word.trimStart())));
    } else {
      const text = turn.words.join("");
      said.append(element("span", "", turn.heard.trimStart()));
      const unheard = text.slice(turn.heard.length);
      if (unheard) said.append(element("span", "va-unheard", unheard));
      if (turn.interrupted) said.append(element("span", "va-mark", "interrupted"));
    }
    return said;
  }

  // Words before the one that sounds are said, the ones after it are to come.
  highlight(turn) {
    const words = document.querySelectorAll(`#va-turn-${turn.turn} .va-word`);
    const played = turn.played || 0;
    let said = 0;
    let now = 0;
    for (const [tokens, end] of turn.times) {
      if (end <= played) said = tokens;
      else if (played > 0) { now = tokens; break; }
    }
    words.forEach((word, index) => {
      word.classList.toggle("va-coming", index >= Math.max(said, now));
      word.classList.toggle("va-now", index >= said && index < now);
    });
  }

  waterfall(turn) {
    const box = element("details", "va-latency");
    const summary = element("summary", "", "");
    summary.append(this.stack(turn, turn.voice_to_voice_s), element("span", "va-figure", ms(turn.voice_to_voice_s)));
    summary.title = "From your last sound to the first sound of the reply";
    const table = element("dl", "va-stages");
    STAGES.forEach(([key, name], index) => {
      const label = element("dt", "");
      label.append(element("i", `va-stage-${index}`), name);
      table.append(label, element("dd", "", ms(turn.waterfall[key])));
    });
    box.append(summary, table);
    return box;
  }

  stack(turn, full) {
    const bar = element("span", "va-stack");
    STAGES.forEach(([key], index) => {
      const part = element("span", `va-stage-${index}`);
      part.style.width = `${Math.max(0, 100 * turn.waterfall[key] / full)}%`;
      bar.append(part);
    });
    return bar;
  }

  drawLatency() {
    const box = $("va-latency");
    if (!box) return;
    const measured = [...this.turns.values()].filter((turn) => turn.waterfall);
    box.replaceChildren();
    if (!measured.length) {
      box.append(element("p", "va-quiet", "Voice to voice: from your last sound to the first sound of the reply. Shown after the first turn."));
      return;
    }
    const sorted = measured.map((turn) => turn.voice_to_voice_s).sort((a, b) => a - b);
    const quantile = (q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
    const tiles = element("div", "va-tiles");
    for (const [name, value] of [["P50", ms(quantile(0.5))], ["P90", ms(quantile(0.9))], ["turns", String(sorted.length)]]) {
      const tile = element("div", "va-tile");
      tile.append(element("b", "", value), element("span", "", name));
      tiles.append(tile);
    }
    const shown = measured.slice(-SHOWN_TURNS);
    const highest = Math.max(...shown.map((turn) => turn.voice_to_voice_s));
    const rows = element("div", "va-rows");
    for (const turn of shown) {
      const row = element("div", "va-row");
      const place = element("span", "va-place");
      const stack = this.stack(turn, highest);
      place.append(stack);
      row.append(element("span", "va-number", `${turn.turn}`), place, element("span", "va-figure", ms(turn.voice_to_voice_s)));
      rows.append(row);
    }
    const legend = element("div", "va-legend");
    STAGES.forEach(([, name], index) => {
      const entry = element("span", "");
      entry.append(element("i", `va-stage-${index}`), name);
      legend.append(entry);
    });
    box.append(tiles, rows, legend);
  }
}

const assistant = new Assistant();
window.assistant = assistant;
// The panel is put into the document by Gradio, some time after this file runs, and its boxes when they are opened.
new MutationObserver(() => {
  assistant.bind();
  const latency = $("va-latency");
  if (latency && !latency.firstChild && assistant.panel) assistant.drawLatency();
}).observe(document.documentElement, { childList: true, subtree: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && ["thinking", "bot speaking"].includes(assistant.state)) assistant.send({ type: "stop" });
});
