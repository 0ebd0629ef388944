#!/usr/bin/env bash
# Pictures of a report as a phone and a desktop show it, in headless Chromium, to be looked at:
#   dev/screenshots.sh runs/quickstart/report.html /tmp/pictures
# Run by hand; needs `chromium` (Debian: apt-get install chromium). Fails if the page is wider than the screen.
set -euo pipefail
page=$(realpath "$1")
out=${2:-.}
mkdir -p "$out"
# A headless window is never narrower than 500 pixels: the page stands in a frame of the width asked for, with
# every sample open.
for width in 390 1280; do
  frame=$(mktemp --suffix .html)
  cat >"$frame" <<HTML
<body style="margin:0"><iframe id="f" src="file://$page" style="border:0;width:${width}px;height:3000px"></iframe>
<pre id="o"></pre><script>onload = () => {
  const d = document.getElementById("f").contentDocument;
  d.querySelectorAll("details").forEach(x => x.open = true);
  document.getElementById("o").textContent = "scrollWidth " + d.documentElement.scrollWidth;
}</script></body>
HTML
  run() { timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-web-security --user-data-dir="$out/profile" --allow-file-access-from-files --virtual-time-budget=5000 "$@" 2>/dev/null; }
  run --window-size="$((width < 500 ? 500 : width)),3000" --screenshot="$out/report-$width.png" "file://$frame"
  found=$(run --dump-dom "file://$frame" | grep -o 'scrollWidth [0-9][0-9]*' | tail -1 | cut -d' ' -f2)
  rm "$frame"
  echo "$width: the page is $found pixels wide; $out/report-$width.png"
  [ "$found" -le "$width" ]
done
