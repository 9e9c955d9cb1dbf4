/* The theme follows the system until the reader chooses; the choice is kept where the browser allows it. */
(function () {
  'use strict';
  const root = document.documentElement;
  const button = document.getElementById('theme');
  const dark = window.matchMedia('(prefers-color-scheme: dark)');

  function chosen() {
    try { return localStorage.getItem('faultlight-theme'); } catch { return null; }
  }

  function keep(theme) {
    try { localStorage.setItem('faultlight-theme', theme); } catch { /* a page without storage keeps no choice */ }
  }

  function current() {
    return root.dataset.theme || (dark.matches ? 'dark' : 'light');
  }

  function name() {
    const other = current() === 'dark' ? 'light' : 'dark';
    button.querySelector('span').textContent = other === 'dark' ? 'Dark' : 'Light';
    button.setAttribute('aria-label', `Change to the ${other} theme`);
  }

  if (chosen() === 'dark' || chosen() === 'light') root.dataset.theme = chosen();
  button.addEventListener('click', () => {
    root.dataset.theme = current() === 'dark' ? 'light' : 'dark';
    keep(root.dataset.theme);
    name();
  });
  dark.addEventListener('change', name);
  name();
  button.hidden = false;
})();
