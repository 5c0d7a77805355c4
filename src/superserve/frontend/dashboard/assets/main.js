// The live page: asks once a second what is new, and draws it.

import { ask, setToken } from "./api.js";
import { element } from "./dom.js";
import { AskForm } from "./form.js";
import { Notable } from "./notable.js";
import { Overview } from "./overview.js";
import { Packed } from "./packed.js";
import { Workers } from "./workers.js";

const EVERY_MS = 1000;
const SLOWEST_MS = 5000;
const KEPT = 300;

const page = { run: "", models: [], model: null, seconds: [], workers: [], packed: {}, span: 60, back: null };
const byId = (id) => document.getElementById(id);

const notable = new Notable();
const packed = new Packed();
const workers = new Workers();
const form = new AskForm((requestId) => notable.explain(requestId));

const overview = new Overview(point);

function point(back) {
  page.back = back;
  draw();
}

/** The seconds that are shown, null where nothing is known of one. */
function shownSeconds() {
  const latest = page.seconds.at(-1)?.number ?? 0;
  const byNumber = new Map(page.seconds.map((second) => [second.number, second]));
  return Array.from({ length: page.span }, (_, index) => byNumber.get(latest - page.span + 1 + index) ?? null);
}

function draw() {
  if (!page.model) return;
  const seconds = shownSeconds();
  const cursor = page.back === null ? null : page.span - 1 - page.back;
  overview.draw(seconds, cursor);
  packed.draw(page.model, page.packed, seconds, cursor);
  workers.draw(page.workers, seconds, cursor);
  const latest = page.seconds.at(-1);
  if (latest) notable.draw(page.model, latest.at_ms, page.span * 1000);
}

function choose(model) {
  const same = JSON.stringify(model) === JSON.stringify(page.model);
  page.model = model;
  overview.use(model);
  for (const button of byId("models").children) {
    button.setAttribute("aria-pressed", String(button.textContent === model.name));
  }
  if (!same) form.use(model); // else what is in the form stays
}

/** Another run: models have come or gone, or the server has been started anew. */
function begin(activity) {
  page.models = activity.models;
  page.seconds = [];
  notable.forget();
  byId("version").textContent = activity.version;
  byId("models").replaceChildren(...page.models.map((model) => {
    const button = element("button", { type: "button" }, model.name);
    button.addEventListener("click", () => {
      choose(model);
      draw();
    });
    return button;
  }));
  const model = page.models.find(({ name }) => name === page.model?.name) ?? page.models[0];
  if (model) choose(model);
  else page.model = null;
}

function learn(activity) {
  if (activity.models) begin(activity);
  page.run = activity.run;
  page.seconds = [...page.seconds, ...activity.seconds].slice(-KEPT);
  page.workers = activity.workers;
  page.packed = activity.packed;
  notable.learn(activity.notable);
  const emulated = page.models.some((model) => model.emulated);
  const said = !page.models.length ? "No model" : activity.ready ? (emulated ? "Live, emulated" : "Live") : "Not ready";
  tell(activity.ready && page.models.length ? "live" : "waiting", said);
  draw();
}

function tell(state, text) {
  const status = byId("status");
  status.dataset.state = state;
  if (status.textContent !== text) status.textContent = text; // announced only when it changes
}

async function poll() {
  const after = page.seconds.at(-1)?.number ?? 0;
  const query = page.run ? `?${new URLSearchParams({ run: page.run, after })}` : "";
  const { body } = await ask(`v2/activity${query}`);
  learn(body);
}

async function follow() {
  let pause = EVERY_MS;
  for (;;) {
    try {
      if (!document.hidden) await poll();
      pause = EVERY_MS;
    } catch (error) {
      if (error.status === 401) {
        tell("waiting", "Waiting for a token");
        await askForToken(error.message);
        pause = 0;
      } else {
        tell("lost", error.status ? error.message : "Reconnecting");
        pause = Math.min(SLOWEST_MS, Math.max(EVERY_MS, pause * 1.5));
      }
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

let tokensTried = 0;

function askForToken() {
  const dialog = byId("token");
  const input = dialog.querySelector("input");
  dialog.querySelector(".wrong").textContent = tokensTried ? "The server does not accept this one." : "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      tokensTried += 1;
      setToken(input.value);
      input.value = "";
      resolve();
    }, { once: true });
  });
}

function listen() {
  byId("range").addEventListener("change", (event) => {
    page.span = Number(event.target.value);
    page.back = null;
    draw();
  });
  const themes = ["auto", "light", "dark"];
  const dress = (theme) => {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${theme}`;
    localStorage.setItem("superserve-theme", theme);
  };
  dress(themes.find((theme) => theme === localStorage.getItem("superserve-theme")) ?? "auto");
  byId("theme").addEventListener("click", () => {
    dress(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);
  });
  // What misses the form must not replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  new ResizeObserver(draw).observe(document.querySelector("main"));
}

listen();
follow();
