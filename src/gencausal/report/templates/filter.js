(() => {
  const tables = [...document.querySelectorAll("table.filtered")];
  const rows = tables.flatMap(table => [...table.tBodies[0].rows]);
  if (!rows.length) return;
  const bar = document.createElement("div");
  bar.className = "filter";
  const labelled = (name, control) => {
    const label = Object.assign(document.createElement("label"), { textContent: name, htmlFor: "filter-" + name });
    const both = document.createElement("span");
    control.id = label.htmlFor;
    both.append(label, control);
    bar.append(both);
    return control;
  };
  const choice = (name, key, all) => {
    const select = labelled(name, document.createElement("select"));
    select.add(new Option(all, ""));
    for (const value of new Set(rows.map(row => row.dataset[key]))) select.add(new Option(value, value));
    return select;
  };
  const words = labelled("Words", Object.assign(document.createElement("input"), { type: "search" }));
  const system = choice("System", "system", "all");
  const verdict = choice("Verdict", "verdict", "all");
  const order = labelled("Order", document.createElement("select"));
  for (const [name, key] of [["as in the ledger", "place"], ["by claim", "claim"], ["by verdict", "rank"], ["by ours over published", "ratio"]]) order.add(new Option(name, key));
  const told = document.createElement("p");
  told.setAttribute("role", "status");
  bar.append(told);
  rows.forEach((row, place) => { row.dataset.place = place; });
  const compare = (a, b) => {
    const [x, y] = [a.dataset[order.value], b.dataset[order.value]];
    if (order.value === "claim") return x.localeCompare(y, "en", { numeric: true });
    return (x === "" ? Infinity : +x) - (y === "" ? Infinity : +y) || a.dataset.place - b.dataset.place;
  };
  const show = () => {
    const wanted = words.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = (system.value && row.dataset.system !== system.value) || (verdict.value && row.dataset.verdict !== verdict.value) || !row.textContent.toLowerCase().includes(wanted);
      left += !row.hidden;
    }
    for (const table of tables) {
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
      const folded = table.closest("details");
      if (folded && (wanted || system.value || verdict.value)) folded.open = [...table.tBodies[0].rows].some(row => !row.hidden);
    }
    told.textContent = left + " of " + rows.length + " claims";
  };
  bar.addEventListener("input", show);
  document.getElementById("claims").after(bar);
  show();
})();
