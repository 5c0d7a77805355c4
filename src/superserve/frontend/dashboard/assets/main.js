// The live page: asks once a second what is new, and draws it.

import { ask, setToken } from "./api.js";
import { Band, Chart, nice } from "./chart.js";
import { milliseconds, percent, short, subnetColour, element } from "./dom.js";
import { AskForm } from "./form.js";
import { Notable } from "./notable.js";
import { Workers } from "./workers.js";

const EVERY_MS = 1000;
const SLOWEST_MS = 5000;
const KEPT = 300;

const page = { run: "", models: [], model: null, seconds: [], workers: [], span: 60, back: null };
const byId = (id) => document.getElementById(id);

const notable = new Notable();
const workers = new Workers();
const form = new AskForm((requestId) => notable.explain(requestId));

const of = (key) => (second) => second.models[page.model?.name]?.[key] ?? null;
const best = () => page.model.subnets.at(-1).accuracy;
const refused = (second) => {
  const model = second.models[page.model?.name];
  return model ? model.expired + model.rejected + model.failed : null;
};
const charts = [
  new Chart(byId("requests"), {
    title: "Requests",
    lines: [
      { label: "offered", of: of("offered") },
      { label: "in time", of: of("served"), shaded: true },
      { label: "refused", of: refused },
    ],
    tell: (second) => `${short(of("offered")(second))} /s`,
    note: (second) => `${short(of("served")(second))} in time, ${short(refused(second))} refused`,
    bounds: (values) => [0, nice(Math.max(1, ...values))],
    axis: short,
  }, point),
  new Chart(byId("attainment"), {
    title: "SLO attainment",
    lines: [{ label: "in time", of: of("attainment"), shaded: true }],
    tell: (second) => percent(of("attainment")(second)),
    note: () => `served within the deadline, of all that ended`,
    bounds: (values) => [Math.min(0.9, Math.floor(Math.min(1, ...values) * 10) / 10), 1],
    axis: (value) => `${Math.round(value * 100)} %`,
  }, point),
  new Chart(byId("accuracy"), {
    title: "Accuracy",
    lines: [{ label: "served", of: of("accuracy"), shaded: true }],
    tell: (second) => (of("accuracy")(second) === null ? "–" : `${of("accuracy")(second).toFixed(2)} %`),
    note: (second) => (of("given_up")(second) === null ? ""
      : `${of("given_up")(second).toFixed(2)} points given up, of ${best()} %`),
    bounds: () => {
      const least = page.model.subnets[0].accuracy;
      const low = Math.floor(least - 1);
      return [low, Math.ceil(best() + (best() - low) * 0.05)];
    },
    reference: best,
    axis: (value) => `${value} %`,
  }, point),
  new Chart(byId("latency"), {
    title: "Latency",
    lines: [{ label: "p50", of: of("p50_ms") }, { label: "p99", of: of("p99_ms") }],
    tell: (second) => milliseconds(of("p99_ms")(second)),
    note: (second) => `p99; p50 ${milliseconds(of("p50_ms")(second))}; SLO ${milliseconds(page.model.slo_ms)}`,
    bounds: (values) => [0, Math.max(page.model.slo_ms * 1.1, ...values)],
    reference: () => page.model.slo_ms,
    axis: (value) => (value ? milliseconds(value) : "0"),
  }, point),
  new Chart(byId("queue"), {
    title: "Queue",
    lines: [{ label: "waiting", of: of("queued"), shaded: true }],
    tell: (second) => short(of("queued")(second)),
    note: () => "requests waiting",
    bounds: (values) => [0, nice(Math.max(1, ...values))],
    axis: short,
  }, point),
  new Chart(byId("batch"), {
    title: "Batch size",
    lines: [{ label: "rows", of: of("batch_rows"), shaded: true }],
    tell: (second) => short(of("batch_rows")(second)),
    note: () => "rows, mean",
    bounds: (values) => [0, nice(Math.max(1, ...values))],
    axis: short,
  }, point),
  new Chart(byId("headroom"), {
    title: "Burst headroom",
    lines: [{ label: "left", of: (second) => second.headroom, shaded: true }],
    tell: (second) => `${Math.round(second.headroom * 100)} %`,
    note: () => "left of what the fastest subnets can take",
    bounds: (values) => [Math.min(0, ...values), 1],
    axis: (value) => `${Math.round(value * 100)} %`,
  }, point),
];
const band = new Band(byId("subnets"), "Subnets in use", point);

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
  for (const chart of charts) chart.draw(seconds, cursor);
  const amounts = (second) => second.models[page.model.name]?.subnets ?? page.things.map(() => 0);
  band.draw(page.things, seconds, amounts, cursor, tellSubnets);
  workers.draw(page.workers, seconds, cursor);
  const latest = page.seconds.at(-1);
  if (latest) notable.draw(page.model, latest.at_ms, page.span * 1000);
}

function tellSubnets(amounts) {
  const used = amounts.filter((amount) => amount > 0).length;
  if (!used) return ["–", "no requests"];
  const most = amounts.indexOf(Math.max(...amounts));
  const { id, accuracy } = page.model.subnets[most];
  return [`${used} of ${amounts.length}`, `answered in this second, most often ${id} with ${accuracy} %`];
}

function choose(model) {
  const same = JSON.stringify(model) === JSON.stringify(page.model);
  page.model = model;
  page.things = model.subnets.map((subnet, index) => ({
    label: `${subnet.id}: ${subnet.accuracy} %`,
    detail: `${subnet.accuracy} %`,
    colour: subnetColour(index, model.subnets.length),
  }));
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
