// A run's live page: draws its sections, updates them while stages run, and gives way to the report. Starts the page.

const SECONDS_BETWEEN = 5;
const STALE_SECONDS = 90; // the driver writes every few seconds, so it does not run any more
const SHOWN = {
  done: ["in-finished", "done"], reused: ["in-finished", "done before"], running: ["in-running", "running"],
  waiting: ["in-waiting", "waiting"], queued: ["in-waiting", "waiting for resources"], left: ["in-waiting", "not asked for"],
  failed: ["in-failed", "failed"], skipped: ["in-interrupted", "skipped"], stopped: ["in-interrupted", "stopped"],
};
const BAR_ORDER = ["in-finished", "in-failed", "in-interrupted", "in-running", "in-waiting"];

let state = JSON.parse(byId("state").textContent);
let unreadable = false; // whether the last request failed
let isLeaving = false; // for the report

const isDone = (stage) => stage.state === "done" || stage.state === "reused";
const classOf = (stage) => (SHOWN[stage.state] ?? SHOWN.waiting)[0];
const listOf = (names) => new Intl.ListFormat("en").format(names);

// --- progress

function updateProgress() {
  const { stages } = state;
  const numDone = stages.filter(isDone).length;
  const bar = byId("bar");
  bar.setAttribute("aria-valuemax", stages.length);
  bar.setAttribute("aria-valuenow", numDone);
  bar.setAttribute("aria-valuetext", `${numDone} of ${stages.length} stages are done`);
  const parts = BAR_ORDER.flatMap((name) => stages.filter((stage) => classOf(stage) === name));
  bar.replaceChildren(...parts.map((stage) => make("span", { class: classOf(stage), style: "flex-grow: 1", title: stage.name })));
  const named = (wanted) => stages.filter((stage) => stage.state === wanted).map((stage) => stage.name);
  const [running, failed] = [named("running"), named("failed")];
  const are = (names) => (names.length === 1 ? "is" : "are");
  const clauses = [`${numDone} of ${stages.length} stages are done`];
  if (running.length) clauses.push(`${listOf(running)} ${are(running)} running`);
  if (failed.length) clauses.push(`${listOf(failed)} failed`);
  const sentence = `${clauses.join("; ")}.`;
  if (byId("summary-line").textContent !== sentence) byId("summary-line").textContent = sentence; // otherwise a screen reader repeats it
  setText(byId("problem"), state.reason);
  byId("stages").tBodies[0].replaceChildren(...stages.map(stageRow));
}

function stageRow(stage) {
  const [kind, word] = SHOWN[stage.state] ?? [classOf(stage), stage.state];
  const seconds = stage.state === "running" && stage.started !== null ? state.updated - stage.started : stage.seconds;
  const details = [stage.reason || stage.text];
  if (stage.state === "running" && stage.fraction !== null) details.push(make("span", { class: "meter", "aria-hidden": "true" }, make("i", { style: `width: ${(100 * stage.fraction).toFixed(1)}%` })));
  const stateCell = textCell("State", make("i", { class: kind }), word);
  stateCell.classList.add("state");
  const progressCell = textCell("Progress", ...details.filter(Boolean));
  progressCell.classList.add("progress-text");
  return row(heading(stage.name), stateCell, cell("Time", seconds === null ? "–" : formatDuration(Math.max(0, seconds))), progressCell);
}

/** Show the age of the state, and whether the page updates itself. */
function updateAge() {
  const age = Math.max(0, Date.now() / 1000 - state.updated);
  const date = new Date(1000 * state.updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "medium" });
  const when = age < 20 ? "just now" : age < 5400 ? `${age < 90 ? `${Math.round(age)} s` : `${Math.round(age / 60)} min`} ago` : `on ${date}`;
  const silent = state.state === "running" && age > STALE_SECONDS ? " Nothing has been written since: `arspm status` shows whether the run still goes on, and the same `arspm submit` resumes it." : "";
  const ended = state.state === "running" ? "" : ", when the chain ended";
  const served = unreadable ? "The latest state could not be loaded; the page keeps trying." : "The page updates itself.";
  const next = SERVED ? served : "Reload the page for a newer state, or follow the run with `arspm dashboard`.";
  byId("last-update").textContent = `Last updated ${when}${ended}.${silent} ${next}`;
}

// --- trainings, corpus

const figures = new Map(); // stage -> its caption and the container of its chart

function buildFigure(stage) {
  const caption = make("figcaption", {});
  const container = make("div", { class: "chart-container", id: `chart-${stage}`, "data-label": `Training loss by step and validation metric by epoch of stage ${stage}` });
  byId("trainings").append(make("figure", {}, caption, container));
  return { caption, container, shown: "" };
}

function updateTrainings() {
  byId("no-training").hidden = state.trainings.length > 0;
  for (const { stage, text, chart } of state.trainings) {
    if (!figures.has(stage)) figures.set(stage, buildFigure(stage));
    const figure = figures.get(stage);
    figure.caption.replaceChildren(make("b", {}, stage), ` ${text}`);
    const fresh = JSON.stringify(chart);
    if (figure.shown !== fresh) showChart(figure.container, chart, "There is nothing to draw.");
    figure.shown = fresh;
  }
}

function updateCorpus() {
  const { corpus } = state;
  if (corpus === null) return;
  const summary = byId("corpus-summary");
  summary.className = "";
  summary.textContent = `Of ${formatCount(corpus.num_rows)} rows, ${formatCount(corpus.num_clips)} became clips of the corpus and ${formatCount(corpus.num_dropped)} were dropped.`;
  byId("dropped-table").hidden = corpus.dropped.length === 0;
  const most = Math.max(...corpus.dropped.map((each) => each.count));
  byId("dropped").tBodies[0].replaceChildren(...corpus.dropped.map(({ reason, count, about }) => {
    const bar = make("td", { role: "cell", class: "bar", "aria-hidden": "true" }, make("i", { style: `width: ${(100 * count / most).toFixed(1)}%` }));
    return row(heading(reason, make("span", { class: "about" }, about)), cell("Rows", formatCount(count)), cell("Fraction", `${(100 * count / corpus.num_rows).toFixed(1)} %`), bar);
  }));
}

// --- updates

function update() {
  updateProgress();
  updateTrainings();
  updatePortraits(state.trainings);
  updateCorpus();
  updateAge();
}

/** Fetch the state, or the report if that has taken this page's place. */
async function refresh() {
  try {
    const fresh = await fetchJson("../live.json");
    unreadable = false;
    if (fresh.stages.some((stage) => stage.name === "report" && isDone(stage))) {
      if (!isLeaving) setTimeout(() => location.reload(), 2500); // longer than `arspm dashboard` keeps an old page
      isLeaving = true;
      return;
    }
    if (fresh.updated !== state.updated) {
      state = fresh;
      update();
    }
  } catch { unreadable = true; /* the next request is in a few seconds */ }
  updateAge();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const figure of figures.values()) figure.shown = "";
  updateTrainings();
});
addEventListener("beforeprint", drawAll);
setInterval(() => (SERVED && !document.hidden ? refresh() : updateAge()), 1000 * SECONDS_BETWEEN);
document.addEventListener("visibilitychange", () => { if (SERVED && !document.hidden) refresh(); });

update();
if (SERVED) refresh(); // the page is written less often than the state
