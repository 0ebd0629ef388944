"use strict";

// The page's state is its fragment: `#q=…&latents=…&iterations=…&tokens=…&edit=…&donor=…`.
const FIELDS = { q: "question", latents: "latents", iterations: "iterations", tokens: "tokens", edit: "edit", donor: "donor" };
// So many likeliest tokens are shown of each thought and each place of the answer; of the answer's more are asked for,
// so that it can be told how likely a token was before.
const LIKELIEST = 5;
const COMPARED = 20;
const MOST_TOKENS = 64;
const MOST_PLACES = 12;
// What is less likely is left out, unless it was likelier before or was said.
const LEAST = 0.01;

const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A token with its blanks visible, byte-level marks of vocabularies included. */
function shown(token) {
  const visible = { " ": "␣", "Ġ": "␣", "▁": "␣", "\n": "⏎", "Ċ": "⏎", "\t": "⇥" };
  return token.replace(/[ Ġ▁\nĊ\t]/g, (c) => visible[c]);
}

const percent = (p) => (p >= 0.995 ? "100 %" : p < 0.01 ? "<1 %" : `${Math.round(100 * p)} %`);
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.round(100 * Math.abs(x))}`;

// ---- asking ----

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, body, signal) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = body
    ? { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body), signal }
    : { headers, signal };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer. Is `coconut serve` still running?");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refusal(response.status, answer?.error?.message ?? `The server answered with status ${response.status}.`);
}

/** The events of a streamed answer. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let whole = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      whole ||= data === "[DONE]";
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
  if (!whole) throw new Refusal(0, "The answer broke off.");
}

/** Tokens of one part of an answer: each with its probability and the likeliest ones at its place. */
function said(logprobs) {
  return (logprobs?.tokens ?? []).map((token, at) => ({
    token,
    p: Math.exp(logprobs.token_logprobs[at]),
    top: Object.entries(logprobs.top_logprobs[at])
      .map(([name, value]) => [name, Math.exp(value)])
      .sort((a, b) => b[1] - a[1]),
  }));
}

/** Fills `run` as the answer comes, and calls `changed` each time. */
async function ask(run, body, signal, changed) {
  try {
    for await (const event of events(await request("/v1/completions", body, signal))) {
      if (event.error) throw new Refusal(0, event.error.message);
      const choice = event.choices[0];
      if (choice.thoughts) {
        run.prompt = choice.prompt;
        run.thoughts = choice.thoughts;
        run.readout = choice.readout ?? [];
      }
      run.text += choice.text;
      run.tokens.push(...said(choice.logprobs));
      run.reason = choice.finish_reason ?? run.reason;
      changed();
    }
    run.done = true;
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) askForToken();
    run.failure = error.message;
    run.done = true;
  }
  changed();
}

// ---- one model ----

class View {
  constructor(about) {
    this.about = about;
    this.runs = {};
    this.chosen = 0;
    this.cards = [];
    const title = make("h2", { id: `model-${about.id}`, textContent: about.id });
    this.failure = make("p", { className: "failure" });
    this.failure.setAttribute("role", "alert");
    this.row = make("div");
    this.row.setAttribute("role", "group");
    this.row.setAttribute("aria-label", `Row of ${about.id}: tokens and thoughts`);
    this.readout = make("div");
    this.cosines = make("div");
    this.answer = make("div");
    this.element = make("section", { className: "model" }, title, make("p", { className: "quiet", textContent: this.says() }),
      this.failure, this.row, this.readout, this.answer, this.cosines);
    this.element.setAttribute("aria-labelledby", title.id);
  }

  /** What kind of model it is, in a sentence. */
  says() {
    const { plain, method, stage, thinking, latents } = this.about;
    if (plain && !latents) return "A plain model: it goes on with the text, and has no thoughts.";
    const kind = `${plain ? "a plain model with latents that nobody trained" : `method ${method}, stage ${stage}`}: `;
    if (!latents) return `${kind}it has no latents.`;
    if (thinking === "none") return `${kind}nothing is fed back to its latents, so there is no thought to change.`;
    return kind + (thinking === "parallel" ? "its thoughts are computed together, again and again." : "it thinks one thought after the other.");
  }

  feedsBack() {
    return this.about.latents && this.about.thinking !== "none";
  }

  /** What is asked of it. */
  body(state, edit) {
    const body = { model: this.about.id, prompt: state.question, stream: true, thoughts: LIKELIEST, logprobs: COMPARED };
    body.max_tokens = Number(state.tokens || MOST_TOKENS);
    if (state.latents !== "" && this.about.latents) body.latents = Number(state.latents);
    if (state.iterations !== "" && this.about.iterations !== null) body.iterations = Number(state.iterations);
    if (edit) {
      body.edit = edit;
      if (edit.startsWith("transplant")) body.donor = state.donor;
    }
    return body;
  }

  /** Asks again what has changed since, the unedited answer and the edited one. */
  async show(state) {
    const edit = this.feedsBack() ? state.edit : "";
    await Promise.all([this.run("plain", this.body(state, "")), this.run("edited", edit && this.body(state, edit))]);
  }

  async run(name, body) {
    const key = JSON.stringify(body);
    if (this.runs[name]?.key === key && !this.runs[name].failure) return;
    this.runs[name]?.abort.abort();
    if (!body) {
      delete this.runs[name];
      this.draw();
      return;
    }
    const run = { key, edit: body.edit, abort: new AbortController(), thoughts: null, text: "", tokens: [], done: false };
    this.runs[name] = run;
    announce();
    await ask(run, body, run.abort.signal, () => this.runs[name] === run && this.draw());
  }

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      const { plain, edited } = this.runs;
      this.failure.textContent = edited?.failure ?? plain?.failure ?? "";
      if (plain?.failure) return this.clear();
      // What was shown stays until there is something new.
      if (!plain?.thoughts) return;
      this.drawRow(plain, edited?.thoughts ? edited : null);
      this.drawAnswer(plain, edited);
      this.drawReadout(edited?.thoughts ? edited : plain);
      this.drawCosines(edited?.thoughts ? edited : plain);
      announce();
    });
  }

  clear() {
    this.shape = null;
    this.cards = [];
    for (const part of [this.row, this.readout, this.answer, this.cosines]) part.replaceChildren();
    fillPlaces();
    announce();
  }

  // The row, text as tokens and thoughts as cells that stay the same elements, so that focus stays where it is.
  drawRow({ prompt, thoughts }, edited) {
    const shape = JSON.stringify(prompt);
    if (this.shape !== shape) {
      this.shape = shape;
      this.cards = thoughts.map((_, index) => this.card(index));
      this.chosen = Math.min(this.chosen, Math.max(thoughts.length - 1, 0));
      this.row.replaceChildren(...this.parts(prompt));
      fillPlaces();
    }
    this.cards.forEach((card, index) => this.drawCard(card, index, thoughts[index], edited?.thoughts[index]));
  }

  parts({ tokens, latents }) {
    const parts = [];
    let cards = 0;
    tokens.forEach((token, position) => {
      const latent = latents.includes(position);
      const last = parts.at(-1);
      const kind = latent ? "thoughts" : "row";
      const list = last?.className === kind ? last : make("ol", { className: kind });
      if (list !== last) parts.push(list);
      const marker = /^<.+>$/.test(token);
      list.append(latent ? make("li", {}, this.cards[cards++]) : make("li", { className: marker ? "token marker" : "token", textContent: shown(token) }));
    });
    return parts;
  }

  card(index) {
    const card = make("button", { type: "button", className: "thought", tabIndex: index === this.chosen ? 0 : -1 });
    card.onclick = () => choose(this, index);
    card.onkeydown = (event) => this.step(event, index);
    return card;
  }

  /** Arrow keys go from thought to thought. */
  step(event, index) {
    const last = this.cards.length - 1;
    const next = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(last, next));
    this.cards.forEach((card, at) => (card.tabIndex = at === to ? 0 : -1));
    this.cards[to].focus();
  }

  drawCard(card, index, plain, edited) {
    const now = edited ?? plain;
    const what = edited ? whatIsDone(this.runs.edited.edit, index, this.cards.length) : "";
    const [is, was] = [told(now), told(plain)];
    const changed = is !== was;
    const feeds = this.feedsBack();
    card.classList.toggle("changed", changed);
    card.classList.toggle("edited", what !== "");
    card.setAttribute("aria-disabled", String(!feeds));
    card.setAttribute("aria-pressed", String(feeds && $("place").value === String(index + 1)));
    card.setAttribute("aria-label", `Thought ${index + 1}: ${is}${what && `, ${what}`}${changed ? `; it was ${was}` : ""}`);
    const length = make("span", { textContent: now.length?.toFixed(2) ?? "", title: "length of the vector that is fed" });
    const head = make("span", { className: "head" }, make("span", { textContent: index + 1 }), make("span", { className: "what", textContent: what, title: "its tokens are what was thought here; its length is that of what is fed instead" }), length);
    const likely = now.tokens.filter(([, p], at) => at === 0 || p >= LEAST).map(([token, p]) => bar(token, p));
    card.replaceChildren(head, make("span", {}, ...likely), ...(changed ? [make("span", { className: "was", textContent: `was ${was}` })] : []));
  }

  drawReadout({ readout }) {
    const lines = readout.map((text, at) => make("li", { className: "said-text", value: at + 1, textContent: text }));
    this.readout.replaceChildren(...(lines.length ? [make("h3", { textContent: "What the step decoder reads" }), make("ol", {}, ...lines)] : []));
  }

  drawCosines({ thoughts }) {
    const fed = thoughts.filter((thought) => thought.length !== null);
    if (fed.length < 2) return this.cosines.replaceChildren();
    const rows = fed.slice(1).map(({ cosines }, row) => {
      const cells = cosines.map((cosine) => {
        const cell = make("td", { textContent: cosine === null ? "–" : cosine.toFixed(2).replace("-", "−") });
        cell.style.setProperty("--p", Math.max(0, cosine ?? 0));
        return cell;
      });
      return make("tr", {}, make("th", { scope: "row", textContent: row + 2 }), ...cells);
    });
    const heads = fed.slice(0, -1).map((_, at) => make("th", { scope: "col", textContent: at + 1 }));
    const table = make("table", { className: "cosines" }, make("caption", { textContent: "Cosine of each two thoughts as they are fed: 1 is the same direction, 0 none in common." }),
      make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...rows));
    this.cosines.replaceChildren(make("h3", { textContent: "How alike they are" }), scroller(table, "Cosines of thoughts"));
  }

  drawAnswer(plain, edited) {
    const runs = [["unedited", plain], ...(edited && !edited.failure ? [[edited.edit, edited]] : [])];
    const texts = runs.flatMap(([name, run]) => [
      make("dt", { textContent: name }),
      make("dd", {}, make("p", { className: "said-text", textContent: run.text.trimEnd() || (run.done ? "nothing" : "…") })),
    ]);
    const most = Math.max(...runs.map(([, run]) => run.tokens.length));
    const places = Array.from({ length: Math.min(most, MOST_PLACES) }, (_, at) => at);
    const heads = places.map((at) => make("th", { scope: "col", textContent: at + 1 }));
    const rows = runs.map(([name, run]) => make("tr", {}, make("th", { scope: "row", textContent: name }), ...places.map((at) => place(run, at, plain))));
    const more = most > MOST_PLACES ? ` (the first ${MOST_PLACES} of ${most} are shown)` : "";
    const compared = runs.length > 1 ? ", with the change in points while both have said the same" : "";
    const table = make("table", { className: "answers" },
      make("caption", { textContent: `The likeliest tokens at each place of the answer${more}${compared}.` }),
      make("thead", {}, make("tr", {}, make("td"), ...heads)), make("tbody", {}, ...rows));
    this.answer.replaceChildren(make("h3", { textContent: "Answer" }), make("dl", { className: "said" }, ...texts), scroller(table, "Probabilities of the answer"));
  }
}

/** A thought in words: its likeliest token, and the length of what is fed. */
function told({ tokens: [[token, p]], length }) {
  return `${shown(token)} ${percent(p)}${length === null ? "" : `, length ${length.toFixed(2)}`}`;
}

/** What an edit does to one of `count` thoughts; nothing where it leaves it. */
function whatIsDone(edit, index, count) {
  const [what, place] = edit.split("@");
  const [, name, number] = place.match(/^(\w+)(?:\[(\d+)\])?$/) ?? [];
  const touched = { all: true, first: index < number, last: index + Number(number) >= count }[name] ?? Number(name) === index + 1;
  return touched ? what : "";
}

/** A token on a bar as long as it is probable. */
function bar(token, p, said = false, delta = null) {
  const value = make("span", { className: "value", textContent: percent(p) });
  if (delta !== null && Math.abs(delta) >= 0.005) value.append(" ", make("span", { className: "delta", textContent: signed(delta) }));
  const line = make("span", { className: said ? "likely said" : "likely" }, make("span", { className: "name", textContent: shown(token) }), value);
  line.style.setProperty("--p", p);
  return line;
}

/** One place of an answer; beside the plain answer where both have said the same so far. */
function place(run, at, plain) {
  const own = run.tokens[at];
  if (!own) return make("td");
  const same = run !== plain && plain.tokens[at] && run.tokens.slice(0, at).every(({ token }, i) => token === plain.tokens[i].token);
  const before = new Map(same ? plain.tokens[at].top : []);
  const likely = own.top.filter(([token, p], at) => (p >= LEAST && at < LIKELIEST) || before.get(token) >= LEAST || token === own.token);
  const lines = likely.map(([token, p]) => bar(token, p, token === own.token, before.has(token) ? p - before.get(token) : null));
  return make("td", {}, ...lines);
}

/** A part that scrolls by itself, by keyboard too. */
function scroller(child, label) {
  const element = make("div", { className: "scroll", tabIndex: 0 }, child);
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", label);
  return element;
}

// ---- the page ----

let views = [];

function state() {
  return Object.fromEntries(Object.values(FIELDS).map((id) => [id, $(id).value.trim()]));
}

function readFragment() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  for (const [key, id] of Object.entries(FIELDS)) $(id).value = fragment.get(key) ?? "";
}

function writeFragment() {
  const values = state();
  const set = Object.entries(FIELDS).filter(([, id]) => values[id] !== "");
  history.replaceState(null, "", `#${new URLSearchParams(set.map(([key, id]) => [key, values[id]]))}`);
}

async function show() {
  if (!$("ask").checkValidity()) return;
  writeFragment();
  const now = state();
  if (now.question === "") return;
  $("problem").textContent = "";
  await Promise.all(views.map((view) => view.show(now)));
}

/** Tells those who do not see the page what came out, once all is said. */
function announce() {
  const runs = views.flatMap((view) => Object.values(view.runs));
  if (runs.some((run) => !run.done)) {
    $("status").textContent = "answering …";
    return;
  }
  const said = (run) => `“${run.text.trim()}”`;
  const of = (view) => {
    const { plain, edited } = view.runs;
    const name = views.length > 1 ? `${view.about.id}: ` : "";
    if (!plain || plain.failure) return `${name}no answer.`;
    const changed = edited && !edited.failure ? `, with ${edited.edit} ${said(edited)}` : "";
    return `${name}the answer is ${said(plain)}${changed}.`;
  };
  $("status").textContent = views.map(of).join(" ");
}

/** Chooses the thought that is to be changed. */
function choose(view, index) {
  if (!view.feedsBack()) return;
  $("place").value = String(index + 1);
  view.cards.forEach((card, at) => (card.tabIndex = at === index ? 0 : -1));
  placeChanged();
}

function placeChanged() {
  const all = $("place").value === "all";
  document.querySelector("[data-do=permute]").hidden = !all;
  views.forEach((view) => view.draw());
}

/** Offers as many places as there are thoughts to change. */
function fillPlaces() {
  const most = Math.max(0, ...views.filter((view) => view.feedsBack()).map((view) => view.cards.length));
  $("change").hidden = most === 0;
  const numbers = Array.from({ length: most }, (_, at) => String(at + 1));
  for (const [id, options] of [["place", [...numbers, "all"]], ["source", numbers]]) {
    const before = $(id).value;
    $(id).replaceChildren(...options.map((value) => make("option", { value, textContent: id === "place" && value !== "all" ? `thought ${value}` : value === "all" ? "all thoughts" : value })));
    $(id).value = options.includes(before) ? before : options[0] ?? "";
  }
  placeChanged();
}

/** The edit that a button stands for, in the audit's words. */
function editOf(what) {
  const scale = Number($("scale").value || 1);
  const name = { noise: `noise[${scale}]`, move: `move[${$("source").value}]` }[what] ?? what;
  return `${name}@${$("place").value}`;
}

function apply(what) {
  if (what === "transplant" && $("donor").value.trim() === "") {
    $("donor").focus();
    $("problem").textContent = "Write the question whose thoughts are to be fed, then swap.";
    return;
  }
  $("edit").value = editOf(what);
  show();
}

function askForToken() {
  sessionStorage.removeItem("token");
  $("token-form").hidden = false;
  $("token").focus();
}

async function start() {
  try {
    const models = (await (await request("/v1/models")).json()).data;
    views.forEach((view) => Object.values(view.runs).forEach((run) => run.abort.abort()));
    views = models.map((about) => new View(about));
    $("token-form").hidden = true;
    $("ask").hidden = false;
    $("models").replaceChildren(...views.map((view) => view.element));
    const iterations = models.map((about) => about.iterations).filter((times) => times !== null);
    $("iterations-dial").hidden = iterations.length === 0;
    $("iterations").placeholder = [...new Set(iterations)].join(", ");
    $("latents").disabled = !models.some((about) => about.latents);
    document.title = `${models.map((about) => about.id).join(" beside ")} · coconut explorer`;
    await show();
  } catch (error) {
    if (error.status === 401) return askForToken();
    $("problem").textContent = error.message;
  }
}

$("ask").onsubmit = (event) => {
  event.preventDefault();
  show();
};
$("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    show();
  }
};
for (const id of ["latents", "iterations", "tokens"]) $(id).onchange = show;
$("place").onchange = placeChanged;
for (const button of document.querySelectorAll("[data-do]")) button.onclick = () => apply(button.dataset.do);
$("donor").onkeydown = (event) => event.key === "Enter" && apply("transplant");
$("scale").onchange = () => $("edit").value.startsWith("noise") && apply("noise");
$("edit-form").onsubmit = (event) => {
  event.preventDefault();
  show();
};
$("undo").onclick = () => {
  $("edit").value = "";
  show();
};
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("token").value = "";
  $("problem").textContent = "";
  start();
};
window.onhashchange = () => {
  readFragment();
  show();
};
readFragment();
start();
