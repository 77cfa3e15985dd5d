// Downloads: all trials as CSV, and configurations as JSON.

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const fileName = (end) => `${results.sweep.name.replace(/[^\w.-]+/g, "_")}-${end}`;

/** Return a CSV cell. An apostrophe is prepended to text that a spreadsheet would interpret as a formula. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return `"${(/^[=+\-@\t\r\n]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** Return a CSV with one row per trial: its sample, state, and the metrics of its best epoch. */
function trialsCsv() {
  const { space, metric } = results.sweep;
  const dimensions = Object.keys(space);
  const known = new Set(results.trials.flatMap((trial) => Object.keys(bestEpoch(trial))));
  const figures = [...known].filter((name) => !["epoch", "seconds", metric].includes(name));
  const fields = ["seconds", "cpus", "gpus", "attempts", "is_paper"];
  const atBest = figures.map((name) => `${name}_at_best`);
  const row = (trial) => [
    trial.number, ...dimensions.map((name) => trial.sample[name]), trial.state, trial.reason, trial.best, trial.best_epoch, epochsDone(trial),
    ...fields.map((name) => trial[name]), ...figures.map((name) => bestEpoch(trial)[name]),
  ];
  const table = [["number", ...dimensions, "state", "reason", `best_${metric}`, "best_epoch", "epochs", ...fields, ...atBest], ...results.trials.map(row)];
  return table.map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

async function downloadTrials() {
  await loadCurves().catch(() => { unreadable = true; });
  download(fileName("trials.csv"), "text/csv", trialsCsv());
}

const downloadJson = (end, value) => download(fileName(end), "application/json", JSON.stringify(value, null, 2));
