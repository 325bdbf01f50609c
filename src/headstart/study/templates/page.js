"use strict";
(() => {
  document.documentElement.classList.add("js");
  const text = (cell) => cell.textContent.replace(/\s+/g, " ").trim();

  // "−1.5", "+2.81", "77.5 %" as numbers; what is unknown comes last, whichever way one sorts
  const number = (cell) => parseFloat(text(cell).replace("−", "-"));
  const order = { none: "ascending", ascending: "descending", descending: "none" };

  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const direction = order[head.getAttribute("aria-sort")];
        for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", direction);
        const sign = direction === "descending" ? -1 : 1;
        const numeric = head.classList.contains("n");
        const compare = (a, b) => {
          const [x, y] = [a.cells[column], b.cells[column]].map(numeric ? number : text);
          if (!numeric) return sign * x.localeCompare(y, "en", { numeric: true });
          if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
          return sign * (x - y);
        };
        body.append(...(direction === "none" ? original : [...original].sort(compare)));
      });
    });
  }

  function searchable(box, table, status) {
    const search = box.querySelector("input[type=search]");
    if (!search) return;
    const selects = [...box.querySelectorAll("select")];
    const rows = [...table.tBodies[0].rows];
    const words = rows.map((row) => text(row).toLowerCase());
    for (const select of selects) {
      const values = new Set(rows.map((row) => text(row.cells[select.dataset.column])));
      const sorted = [...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      select.append(...sorted.map((value) => new Option(value || "(none)", value || " ")));
    }
    const show = () => {
      const parts = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, k) => {
        const chosen = (select) => !select.value || text(row.cells[select.dataset.column]) === select.value.trim();
        row.hidden = !(parts.every((part) => words[k].includes(part)) && selects.every(chosen));
        shown += !row.hidden;
      });
      status.textContent = `${shown} of ${rows.length} rows`;
    };
    [search, ...selects].forEach((field) => field.addEventListener("input", show));
    show();
  }

  const escaped = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$" };
  const tex = (value) => value.replace(/[\\~^–−]|[&%$#_{}]/g, (letter) => escaped[letter] || `\\${letter}`);
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

  const formats = {
    md: (rows, numeric) => {
      const line = (cells) => `| ${cells.join(" | ")} |`;
      const [head, ...rest] = rows.map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
      return [line(head), line(numeric.map((is) => (is ? "--:" : "---"))), ...rest.map(line)].join("\n") + "\n";
    },
    csv: (rows) => rows.map((row) => row.map(quoted).join(",") + "\n").join(""),
    tex: (rows, numeric) => {
      const [head, ...rest] = rows.map((row) => row.map(tex).join(" & ") + " \\\\");
      const columns = numeric.map((is) => (is ? "r" : "l")).join("");
      return [`\\begin{tabular}{${columns}}`, "\\toprule", head, "\\midrule", ...rest, "\\bottomrule", "\\end{tabular}", ""].join("\n");
    },
  };

  async function toClipboard(content) {
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      // without permission or a secure context: the old way
      const area = document.createElement("textarea");
      area.value = content;
      area.style.cssText = "position:fixed;opacity:0";
      const before = document.activeElement;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      before?.focus();
      if (!done) throw new Error("the browser refuses to copy");
    }
  }

  for (const box of document.querySelectorAll("div.table")) {
    const table = box.querySelector("table");
    const status = box.querySelector("[role=status]");
    sortable(table);
    searchable(box, table, status);
    for (const button of box.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        const heads = [...table.tHead.rows[0].cells];
        const visible = [...table.tBodies[0].rows].filter((row) => !row.hidden);
        const rows = [heads, ...visible.map((row) => [...row.cells])].map((cells) => cells.map(text));
        try {
          await toClipboard(formats[button.dataset.copy](rows, heads.map((head) => head.classList.contains("n"))));
          status.textContent = `Copied ${visible.length} rows as ${button.textContent}`;
        } catch (error) {
          status.textContent = `Not copied: ${error.message}`;
        }
      });
    }
  }

  // paper shows what a click would
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
})();
