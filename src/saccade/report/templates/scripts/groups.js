// A list with filters beside the entry that is chosen; and the group browser, which is one.

// spec: {key, filters: [{name, label, choices(entries) or null for a checkbox, keep(entry, value)}], row(entry), detail(entry)}
function browser(root, entries, spec) {
  const values = {};
  let shown = entries, chosen = null;
  const list = el("ol", { class: "list", role: "listbox", "aria-label": spec.label, tabindex: 0 });
  const detail = el("div", { class: "detail", "aria-live": "polite" });
  const count = el("span", { class: "count", role: "status" });

  const choose = (entry, focus) => {
    chosen = entry;
    list.querySelectorAll("li").forEach((row) => row.setAttribute("aria-selected", String(row.dataset.id === entry?.id)));
    detail.replaceChildren(...(entry ? spec.detail(entry, api).filter(Boolean) : [el("p", { class: "note" }, "Nothing passes these filters.")]));
    if (entry) remember(spec.key, entry.id);
    const row = list.querySelector('[aria-selected="true"]');
    if (row && focus) list.scrollTop = Math.max(0, row.offsetTop - list.clientHeight / 2);
  };
  const update = () => {
    shown = entries.filter((entry) => spec.filters.every((filter) => !values[filter.name] || filter.keep(entry, values[filter.name])));
    count.textContent = `${shown.length.toLocaleString("en")} of ${entries.length.toLocaleString("en")}`;
    list.replaceChildren(...shown.map((entry) => el("li", { role: "option", "data-id": entry.id, onclick: () => choose(entry) }, spec.row(entry))));
    choose(shown.includes(chosen) ? chosen : shown[0], true);
  };
  const controls = spec.filters.map((filter) => {
    if (!filter.choices) {
      const box = el("input", { type: "checkbox" });
      box.addEventListener("change", () => { values[filter.name] = box.checked; update(); });
      return el("label", { class: "check" }, box, filter.label);
    }
    const options = filter.choices(entries);
    if (options.length < 2) return null;
    const select = el("select", {}, el("option", { value: "" }, `${filter.label}: all`), options.map(([value, label]) => el("option", { value }, label)));
    select.addEventListener("change", () => { values[filter.name] = select.value; update(); });
    return el("label", {}, el("span", { class: "hidden" }, filter.label), select);
  });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (!move || !shown.length) return;
    event.preventDefault();
    choose(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(chosen) + move))], true);
  });
  const api = { choose: (id) => { const entry = entries.find((one) => one.id === id); if (entry) choose(entry, true); }, again: () => choose(chosen) };
  root.append(el("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, controls, spec.extra ? spec.extra(api) : null, count), el("div", { class: "browser" }, list, detail));
  update();
  const wanted = recall(spec.key);
  const first = entries.find((entry) => entry.id === wanted) || (spec.first && spec.first(entries));
  if (first) choose(first, true);
}

const distinct = (entries, of) => [...new Set(entries.flatMap(of))].sort((a, b) => (a > b ? 1 : -1)).map((value) => [value, value]);

function thumbnail(entry, pictures) {
  return entry.img.length ? el("img", { src: pictures[entry.img[0]].src, alt: "", loading: "lazy" }) : el("span", { class: "blank" }, "no image");
}

function figuresOf(entry, pictures, predicted) {
  const gold = entry.gb.map((box) => [box, "gold"]);
  return entry.img.map((key, i) => el("div", { class: "image" }, picture(pictures[key], i === entry.bi ? [...gold, ...predicted.map((box) => [box, "predicted"])] : [])));
}

function groupBrowser(root, data) {
  const { groups, pictures, formulas } = data;
  const prompts = new Map();
  groups.forEach((group) => prompts.set(group.sample, [...(prompts.get(group.sample) || []), group]));
  const most = Math.max(1e-9, ...groups.flatMap((group) => group.r.map((reply) => Math.abs(reply.a))));
  const rewards = groups.flatMap((group) => group.r.map((reply) => reply.p ?? 0));
  const top = rewards.reduce((a, b) => Math.max(a, b), 0);
  let shade = false;

  const sibling = (reply, group) =>
    el("li", { class: "sibling" },
      el("div", { class: "bar" }, bar(reply.a / most)),
      el("p", { class: "who" }, `${reply.i}`, el("span", { class: "sum" }, "reward ", el("b", {}, number(reply.p)), " advantage ", el("b", {}, reply.a > 0 ? `+${number(reply.a)}` : number(reply.a))),
        reply.f === "length" && el("span", { class: "mark wrong" }, "truncated"), reply.m && el("span", { class: "mark wrong" }, `masked: ${reply.m}`)),
      group.gb.length > 0 && reply.b.length > 0 && group.img.length > 0 && el("div", { class: "image small" }, picture(pictures[group.img[group.bi]], [...group.gb.map((box) => [box, "gold"]), ...reply.b.map((box) => [box, "predicted"])])),
      replyText(reply, formulas, { shade, open: shade }),
      el("ul", { class: "parts" }, Object.entries(reply.parts).map(([name, value]) => el("li", {}, `${name.replaceAll("_", " ")} `, el("b", {}, number(value)), reply.why[name] && el("span", { class: "why" }, reply.why[name])))),
      el("p", { class: "factline" }, el("span", {}, "tokens ", el("b", {}, String(reply.n))), reply.f !== "stop" && el("span", {}, "ended by ", el("b", {}, reply.f)), reply.sc && el("span", {}, "engine's log-probs far from the trainer's, likely cause ", el("b", {}, reply.sc))));

  browser(root, groups, {
    key: "group",
    label: "groups",
    first: (all) => all.findLast((group) => group.img.length && group.dis) || all.findLast((group) => group.dis),
    filters: [
      { name: "task", label: "Task", choices: (all) => distinct(all, (group) => group.task), keep: (group, value) => group.task === value },
      { name: "stage", label: "Stage", choices: (all) => distinct(all, (group) => group.stage), keep: (group, value) => group.stage === value },
      { name: "step", label: "Step", choices: (all) => [...new Set(all.map((group) => group.step))].map((step) => [String(step), `step ${step}`]), keep: (group, value) => String(group.step) === value },
      { name: "reward", label: "Reward", choices: () => [["zero", "a reply with none"], ["some", "a reply in between"], ["full", "a reply with the most"], ["nothing", "no reply with any"]],
        keep: (group, value) => { const of = group.r.map((reply) => reply.p ?? 0); return { zero: of.some((p) => p <= 0), some: of.some((p) => p > 0 && p < top), full: of.some((p) => p >= top), nothing: of.every((p) => p <= 0) }[value]; } },
      { name: "reason", label: "Reason", choices: (all) => commonReasons(all), keep: (group, value) => group.r.some((reply) => Object.values(reply.why).some((why) => kindOf(why) === value)) },
      { name: "cut", label: "truncated", keep: (group) => group.r.some((reply) => reply.f === "length") },
      { name: "dis", label: "siblings disagree", keep: (group) => group.dis },
      ...(groups.some((group) => group.worse) ? [{ name: "worse", label: "got worse since", keep: (group) => group.worse }] : []),
      { name: "image", label: "with image", keep: (group) => group.img.length > 0 },
    ],
    extra: (api) => {
      if (!groups.some((group) => group.r.some((reply) => reply.e))) return null;
      const box = el("input", { type: "checkbox" });
      box.addEventListener("change", () => { shade = box.checked; api.again(); });
      return el("label", { class: "check" }, box, "shade tokens by log-prob");
    },
    row: (group) => [
      thumbnail(group, pictures),
      el("span", { class: "line" }, el("b", {}, `step ${group.step}`), ` ${group.task.replaceAll("_", " ")}`, el("small", {}, group.q)),
      el("span", { class: "dots", title: "rewards of the siblings" }, group.r.map((reply) => el("i", { class: (reply.p ?? 0) >= top ? "full" : (reply.p ?? 0) > 0 ? "half" : "none" }))),
    ],
    detail: (group, api) => {
      const others = prompts.get(group.sample);
      return [
        el("p", { class: "eyebrow" }, `Step ${group.step}${group.stage ? `, stage ${group.stage}` : ""}: ${group.task.replaceAll("_", " ")}`),
        others.length > 1 && el("p", { class: "same" }, "the same prompt: ", others.map((other) => el("button", { type: "button", "aria-pressed": String(other === group), onclick: () => api.choose(other.id) }, `step ${other.step}, mean ${number(meanOf(other))}`))),
        el("div", { class: "question" }, figuresOf(group, pictures, group.gb.length ? group.r.flatMap((reply) => reply.b) : []), el("div", {}, questionOf(group, formulas))),
        el("ol", { class: "siblings" }, group.r.map((reply) => sibling(reply, group))),
      ];
    },
  });
}

const meanOf = (group) => group.r.reduce((sum, reply) => sum + (reply.p ?? 0), 0) / group.r.length;
const kindOf = (why) => why.replace(/[-+]?\d[\d.,]*/g, "#").slice(0, 60);

function commonReasons(groups) {
  const counts = new Map();
  groups.forEach((group) => group.r.forEach((reply) => Object.values(reply.why).forEach((why) => counts.set(kindOf(why), (counts.get(kindOf(why)) || 0) + 1))));
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 30).map(([kind, count]) => [kind, `${kind} (${count})`]);
}

function bar(share) {
  const found = el("i", { class: share > 0 ? "up" : "down" });
  found.style.width = `${50 * Math.min(1, Math.abs(share))}%`;
  return found;
}
