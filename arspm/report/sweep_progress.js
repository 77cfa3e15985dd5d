// The sections on the sweep as a whole: progress, and the best trial.

// --- progress

function updateProgress() {
  const { counts } = results;
  const shown = STATES.filter((state) => counts[state]);
  const ended = counts.finished + counts.stopped + counts.failed;
  const total = Math.max(counts.planned, shown.reduce((sum, state) => sum + counts[state], 0), 1);
  const bar = byId("bar");
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", ended);
  bar.setAttribute("aria-valuetext", `${formatCount(ended)} of ${formatCount(counts.planned)} trials have ended`);
  const order = ["finished", "stopped", "failed", "interrupted", "running", "waiting"].filter((state) => counts[state]);
  bar.replaceChildren(...order.map((state) => make("span", { class: `in-${state}`, style: `flex-grow: ${counts[state]}` })));
  const item = (state) => make("li", {}, make("i", { class: `in-${state}` }), make("b", {}, formatCount(counts[state] ?? 0)), ` ${STATE_WORDS[state]}`);
  byId("counts").replaceChildren(...STATES.map(item));
  const fact = (name, value, about) => make("div", {}, make("dt", {}, name), make("dd", {}, value, make("span", {}, about)));
  const eta = { running: formatDuration(results.eta_seconds), finished: "done" }[results.state] ?? "–";
  const etaAbout = {
    running: results.eta_seconds === null ? "unknown until a trial has ended" : "estimated",
    interrupted: "run the same command again to resume",
    stopped: "stopped before the last trial",
    finished: `${formatCount(counts.planned)} trials planned`,
  };
  byId("spent").replaceChildren(
    fact("Time left", eta, etaAbout[results.state] ?? ""),
    fact("Time spent", formatDuration(results.spent_seconds), "wall time of the sweep"),
    fact("CPU time", formatHours(results.cpu_hours), "sum over trials"),
    fact("GPU time", formatHours(results.gpu_hours), "sum over trials"),
  );
  setText(byId("stopped"), results.reason ? `${results.state === "stopped" ? "Stopped: " : ""}${results.reason}` : "");
}

/** Show the age of the results, and whether the page updates itself. */
function updateAge() {
  const age = Math.max(0, Date.now() / 1000 - results.updated);
  const date = new Date(1000 * results.updated).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const when = age < 45 ? "just now" : age < 5400 ? `${Math.round(age / 60)} min ago` : `on ${date}`;
  const state = {
    running: "while the sweep was running",
    interrupted: "when the sweep was interrupted; run the same command again to resume",
    stopped: "when the sweep had stopped",
    finished: "when the sweep had finished",
  }[results.state];
  const served = unreadable ? "The latest results could not be loaded; the page keeps trying." : "The page updates itself.";
  const next = SERVED ? served : "Reload the page for newer results, or follow the sweep with `arspm dashboard`.";
  setText(byId("last-update"), `Last updated ${when}${state ? `, ${state}` : ""}. ${next}`);
}

// --- best trial

const betterBy = (difference, metric) => `${formatMetric(Math.abs(difference), metric)} ${difference >= 0 ? "better" : "worse"}`;

/** Return a sentence that compares the best trial with the trials that have the paper's values. */
function paperSentence(best) {
  const { numbers, mean, sd } = results.paper;
  const { metric, mode } = results.sweep;
  const early = results.trials.find((trial) => trial.is_paper && trial.state === "stopped" && trial.best !== null);
  if (!numbers.length && early) return `The trial with the paper’s values (trial ${early.number}) was stopped early, at ${formatMetric(early.best, metric)} after ${early.num_epochs === 1 ? "one epoch" : `${early.num_epochs} epochs`}, so its final value is unknown.`;
  if (!numbers.length) return "No trial has the paper’s values, so the best trial cannot be compared with them.";
  const named = numbers.length === 1 ? `trial ${numbers[0]}` : `${numbers.length} trials`;
  if (mean === null) return `The paper’s values (${named}) have no result yet.`;
  if (numbers.length === 1 && numbers[0] === best.number) return "It has the paper’s values.";
  const difference = (mode === "max" ? 1 : -1) * (best.best - mean);
  const own = numbers.includes(best.number) ? "It has the paper’s values. Over all trials with them, they" : "The paper’s values";
  const caution = sd === null ? "A single trial does not show how much results vary between seeds." : "The best of many trials is partly best by chance: train it with other seeds before relying on the difference.";
  const over = `(${named}${sd === null ? "" : ", mean ± standard deviation"})`;
  return `${own} gave ${formatMeanSd({ mean, sd }, metric)} ${over}; the best trial is ${betterBy(difference, metric)}. ${caution}`;
}

function searchSpace(domain) {
  if (domain.kind === "choice") return domain.values.map(formatSetting).join(", ");
  return `${formatNumber(domain.low)} to ${formatNumber(domain.high)}${domain.kind === "loguniform" ? ", logarithmic" : ""}`;
}

function updateBest() {
  const best = results.best === null ? null : trialOf(results.best);
  const { metric, paper, space } = results.sweep;
  const soFar = results.state === "finished" ? "" : " so far";
  setText(byId("best-summary"), best
    ? `Trial ${best.number} is the best${soFar}: ${metricName(metric)} ${formatMetric(best.best, metric)} at epoch ${best.best_epoch}.`
    : "No trial has a result yet.");
  setText(byId("paper-summary"), best ? paperSentence(best) : "");
  const names = shortNames(Object.keys(space));
  byId("space").tBodies[0].replaceChildren(...Object.entries(space).map(([name, domain]) => row(
    heading(names[name], make("span", { class: "about" }, domain.fields.join(", "))),
    textCell("Search space", searchSpace(domain)),
    cell("Best trial", best ? formatSetting(best.sample[name]) : "–"),
    cell("Paper", name === "seed" ? "–" : formatSetting(paper[name])),
  )));
  byId("download-best").disabled = results.config_of_best === null;
}
