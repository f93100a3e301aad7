for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = head.classList.contains("num");
    const value = (row) => {
      const cell = row.cells[column].textContent.trim();
      const text = number ? cell.replaceAll(",", "") : cell;
      return number ? (text === "" || isNaN(parseFloat(text)) ? -Infinity : parseFloat(text)) : text;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a), y = value(b);
      return number ? x - y : x.localeCompare(y, undefined, { numeric: true });
    });
    if (down) rows.reverse();
    table.tBodies[0].append(...rows);
  }));
}
