// One trial: its settings, its complete configuration, its figures by epoch and its log.

const LOG_CHARACTERS = 60_000; // of a log's end, which the page shows
const logs = new Map(); // trial number -> its log, or the reason why there is none

const trialFile = (trialNumber, ending) => `trials/${String(trialNumber).padStart(5, "0")}.${ending}`;

const openButton = (trial) => make("button", { type: "button", class: "open", "aria-label": `Open trial ${trial.number}`, onclick: () => openTrial(trial.number) }, `Trial ${trial.number}`);

/** Return a trial's complete configuration: the best trial's, with this one's fields. Null while no trial is the best. */
function configurationOf(trial) {
  if (!results.config_of_best) return null;
  const config = structuredClone(results.config_of_best);
  for (const [field, value] of Object.entries(trial.changes ?? trial.sample)) {
    const parts = field.split(".");
    const parent = parts.slice(0, -1).reduce((tree, part) => tree?.[part], config);
    if (parent && typeof parent === "object") parent[parts.at(-1)] = value;
  }
  return config;
}

function openTrial(trialNumber) {
  choose({ trial: trialNumber, at: "trial" });
  updateTrial();
  loadDetails();
  byId("trial").scrollIntoView();
  byId("trial-title").focus({ preventScroll: true });
}

function updateTrial() {
  const trial = view.trial === null ? undefined : trialOf(view.trial);
  byId("trial").hidden = byId("trial-link").hidden = !trial;
  if (!trial) return;
  const { metric } = results.sweep;
  setText(byId("trial-title"), `Trial ${trial.number}`);
  const result = trial.best === null ? "no result yet" : `${metricName(metric)} ${formatMetric(trial.best, metric)} at epoch ${trial.best_epoch}`;
  setText(byId("trial-summary"), `${capitalise(STATE_WORDS[trial.state] ?? trial.state)}${trial.reason ? `: ${trial.reason}` : ""}. ${capitalise(result)}.`);
  const date = (stamp) => (Number.isFinite(stamp) ? new Date(1000 * stamp).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }) : "–");
  const facts = [["Started", date(trial.started)], ["Ended", date(trial.ended)], ["Time", formatDuration(trial.seconds)], ["Attempts", formatCount(trial.attempts ?? 0)]];
  byId("trial-facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const changes = Object.entries(trial.changes ?? trial.sample);
  byId("trial-settings").tBodies[0].replaceChildren(...changes.map(([name, value]) => row(heading(name), cell("Value", formatSetting(value)))));
  const config = configurationOf(trial);
  setText(byId("trial-config"), config ? JSON.stringify(config, null, 2) : "The configuration is known once a trial has a result.");
  byId("download-config").disabled = !config;
  updateEpochs(trial);
  updateLog(trial);
}

/** Show the figures of every epoch, from the trial's record; without it, those of the learning curve. */
function updateEpochs(trial) {
  const { metric } = results.sweep;
  const recorded = records.get(trial.number)?.epochs ?? pointsOf(trial, metric).map(([epoch, value]) => ({ epoch, [metric]: value }));
  const figures = [...new Set(recorded.flatMap(Object.keys))].filter((name) => name !== "epoch");
  figures.sort((a, b) => (b === metric) - (a === metric));
  const table = byId("trial-epochs");
  table.tHead.replaceChildren(make("tr", {}, ...["epoch", ...figures].map((name) => make("th", { scope: "col" }, metricName(name)))));
  table.tBodies[0].replaceChildren(...recorded.map((epoch) => make("tr", epoch.epoch === trial.best_epoch ? { class: "own" } : {},
    make("th", { scope: "row" }, formatSetting(epoch.epoch)), ...figures.map((name) => make("td", {}, formatMetric(epoch[name], name))))));
  setText(byId("trial-note"), SERVED ? "" : `All figures of every epoch are in ${trialFile(trial.number, "json")}.`);
}

function updateLog(trial) {
  const link = byId("log-link");
  link.href = trialFile(trial.number, "log");
  link.textContent = link.getAttribute("href");
  const waiting = SERVED ? "Loading." : "Open the file below, which lies beside this page.";
  const written = logs.get(trial.number) ?? waiting;
  const cut = written.length > LOG_CHARACTERS ? "[...]\n" : "";
  setText(byId("trial-log"), cut + written.slice(-LOG_CHARACTERS) || "The log is empty.");
}

/** Fetch the log of the open trial. It grows while the trial runs. */
async function loadLog() {
  const trial = trialOf(view.trial);
  if (!SERVED || !trial) return;
  const response = await fetch(trialFile(trial.number, "log"), { cache: "no-cache" });
  logs.set(trial.number, response.ok ? await response.text() : "This trial has no log.");
  updateLog(trial);
}
