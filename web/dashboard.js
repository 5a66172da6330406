'use strict';

const address = document.getElementById('overlay-url');
const copy = document.getElementById('copy');
const copied = document.getElementById('copied');

copy.hidden = false;
copy.addEventListener('click', async () => {
  address.select();
  try {
    await navigator.clipboard.writeText(address.value);
    copied.textContent = 'Copied.';
  } catch {
    copied.textContent = 'It is selected: copy it with Ctrl+C, or ⌘C on a Mac.';
  }
});
