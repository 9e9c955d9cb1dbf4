/* A heading, once pressed, sorts the runs by its column; pressed again, the other way round. */
(function () {
  'use strict';
  const table = document.getElementById('runs');
  const body = table.tBodies[0];

  function order(column, down) {
    const key = (row) => row.cells[column].dataset.value || '';
    return (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!x || !y) return Boolean(y) - Boolean(x);
      const apart = isNaN(x) || isNaN(y) ? x.localeCompare(y) : Number(x) - Number(y);
      return down ? -apart : apart;
    };
  }

  function sort(head) {
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const each of head.parentElement.cells) each.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    body.append(...Array.from(body.rows).sort(order(head.cellIndex, down)));
  }

  for (const head of table.tHead.rows[0].cells) {
    head.querySelector('button').addEventListener('click', () => sort(head));
  }
  document.documentElement.dataset.ready = 'yes';
})();
