"""The page's style sheet."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --quiet: #57606a; --ground: #fff; --panel: #f5f6f8; --line: #d5dae0; --track: #e4e8ec;
  --cache: #0a7f63; --attention: #a8500e; --product: #2b5fc4; --norm: #7a4cbf; --good: #0a7f63; --bad: #b42318;
  font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground);
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6e9ed; --quiet: #9aa5b1; --ground: #14171b; --panel: #1d2126; --line: #363d45; --track: #2b3138;
    --cache: #37c69d; --attention: #f0a35e; --product: #7aa5f8; --norm: #bd9bf0; --good: #37c69d; --bad: #ff8f84;
  }
}
body { max-width: 68rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .5rem; margin: 0; }
.facts div { padding: .4rem .7rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--panel); }
dt { color: var(--quiet); font-size: .8rem; }
dd { margin: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
.wide { overflow-x: auto; border-radius: .5rem; }
.wide:focus-visible { outline: 2px solid var(--product); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; font-size: .85rem; }
.numbers :is(th, td):not(:first-child) { text-align: right; }
.bar { display: inline-block; width: 6rem; height: .55rem; margin-right: .6rem; border-radius: .3rem;
  background: var(--track); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--product); }
.bars div { display: grid; grid-template-columns: 5rem minmax(0, 1fr) 5rem; gap: .6rem; align-items: center;
  padding: .15rem 0; font-variant-numeric: tabular-nums; }
.bars div > :first-child, .bars div > :last-child { text-align: right; font-size: .85rem; }
.stack { display: flex; height: 1rem; border-radius: .25rem; background: var(--track); overflow: hidden; }
.stack i, .bar i { flex: none; }
.weights { background: var(--quiet); } .cached { background: var(--cache); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; color: var(--quiet); font-size: .85rem; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .2rem; border-radius: .2rem;
  vertical-align: -.05rem; }
.key.cache { background: var(--cache); } .key.attention { background: var(--attention); }
.key.product { background: var(--product); } .key.norm { background: var(--norm); }
.key.loop { width: 1.4rem; height: 0; border-top: 2px dashed var(--cache); border-radius: 0; vertical-align: .25rem; }
figure { margin: 0 0 1.5rem; }
figure .wide { padding: .5rem; border: 1px solid var(--line); background: var(--panel); }
figcaption { margin-bottom: .4rem; }
.notes { color: var(--quiet); font-size: .85rem; padding-left: 1.2rem; }
svg { display: block; margin: 0 auto; font: 600 12.5px/1 system-ui, sans-serif; }
svg text { text-anchor: middle; fill: var(--text); }
svg .detail { font-weight: 400; font-size: 10.5px; fill: var(--quiet); }
.box { color: var(--quiet); }
.box.cache { color: var(--cache); } .box.attention { color: var(--attention); }
.box.product { color: var(--product); } .box.norm { color: var(--norm); }
.box rect { fill: var(--ground); stroke: currentColor; stroke-width: 1.2; }
.box.end rect { stroke-dasharray: 3 3; }
.box.end.outside text { font-weight: 400; fill: var(--quiet); }
.arrow { fill: none; stroke: var(--quiet); stroke-width: 1.1; opacity: .75; }
.arrow.head { fill: var(--quiet); stroke: none; opacity: 1; }
path.loop { fill: none; stroke: var(--cache); stroke-width: 1.8; stroke-dasharray: 5 4; }
.loop.head { fill: var(--cache); stroke: none; }
.label rect { fill: var(--panel); }
.label text.detail { fill: var(--cache); font-weight: 600; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
@media (max-width: 40rem) { svg { zoom: .8; } th, td { padding-right: .6rem; } .bar { width: 4rem; } }
summary { cursor: pointer; padding: .3rem 0; }
"""
