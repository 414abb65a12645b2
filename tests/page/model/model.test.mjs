// The model of the page, without a browser: run by node, started by test_model.py.
import assert from "node:assert/strict";
import { test } from "node:test";
import { axis, density, spans, stateAt, ticks, waits, within } from "../../../backends/server/ui/static/model/timeline.js";
import { command, inputs, readField } from "../../../backends/server/ui/static/model/form.js";
import { encode, Typed } from "../../../backends/server/ui/static/model/json.js";
import { inline, parse } from "../../../backends/server/ui/static/model/markdown.js";
import { alike, attempts, merged, ran, took, total } from "../../../backends/server/ui/static/model/run.js";
import { byGroup, worst } from "../../../backends/server/ui/static/model/states.js";
import { gist, pieces, safeLink, safePicture, visible } from "../../../backends/server/ui/static/model/text.js";
import { NODE, drawn, inColumns, inOrder, layOut } from "../../../backends/server/ui/static/model/graph.js";
import { json, limits } from "../../../backends/server/ui/static/model/steer.js";
import { clock, duration, full, momentIn, zone } from "../../../backends/server/ui/static/model/time.js";

let seed = 7;
const random = (most) => (seed = (seed * 1103515245 + 12345) % 2147483648) % most;

test("changed counts, in any order and told twice, end in what was told last of each task", () => {
  for (let round = 0; round < 50; round += 1) {
    const told = Array.from({ length: 20 }, (_, at) => ({ task_id: `t${random(4)}`, states: { Success: at, Failed: random(9) }, again: 0 }));
    let known = new Map();
    for (const each of told) known = merged(merged(known, [each]), [each]);
    const last = new Map(told.map((each) => [each.task_id, each]));
    assert.deepEqual(new Map([...known].sort()), new Map([...last].sort()));
    const sums = total(known.values());
    assert.equal(sums.get("Success"), [...last.values()].reduce((sum, each) => sum + each.states.Success, 0));
  }
  const known = new Map();
  assert.equal(merged(known, []), known, "what did not change is not made anew");
});

test("state names of users are no properties", () => {
  const counts = [["__proto__", 2], ["constructor", 1], ["Failed", 1]];
  assert.deepEqual(byGroup(counts), [{ group: "failed", count: 1 }, { group: "pending", count: 3 }]);
  assert.equal(worst([["Success", 5], ["Retrying", 1]]), "retrying");
});

test("a task run that was restarted is not drawn in between, and has run for as long as its attempts", () => {
  const at = (seconds) => new Date(Date.UTC(2026, 0, 1) + seconds * 1000).toISOString();
  const zero = Date.parse(at(0));
  const told = (...states) => states.map(([state, seconds], version) => ({ version: version + 1, state, timestamp: at(seconds), message: null }));
  const drawn = (states, now) => spans(states, zero + now * 1000).map((each) => `${each.kind} ${each.state} ${(each.from - zero) / 1000}-${(each.to - zero) / 1000}`);
  const restarted = told(["Pending", 0], ["Running", 1], ["Failed", 3], ["Pending", 60], ["Running", 62], ["Success", 65]);
  assert.deepEqual(drawn(restarted, 100), ["waits Pending 0-1", "runs Running 1-3", "ends Failed 3-3", "waits Pending 60-62", "runs Running 62-65", "ends Success 65-65"]);
  assert.equal(ran(attempts(restarted), zero + 100_000), 5000);
  assert.equal(attempts(restarted).length, 2);
  assert.equal(took({ start_time: at(1), end_time: at(65) }, attempts(restarted)), 5000);
  assert.equal(took({ start_time: at(1), end_time: at(65) }, attempts(restarted.slice(3))), 64_000);
  assert.equal(took({ start_time: at(1), end_time: null }), 0);
  // what goes on goes on to now, and what waits has not run since
  assert.deepEqual(drawn(restarted.slice(0, 5), 70).slice(-1), ["runs Running 62-70"]);
  assert.equal(ran(attempts(restarted.slice(0, 5)), zero + 70_000), 10_000);
  assert.equal(ran(attempts(restarted.slice(0, 4)), zero + 70_000), 2000);
  // a wait for a person makes no second attempt of one that had not begun
  const paused = told(["Pending", 0], ["Paused", 1], ["Resume", 30], ["Running", 31], ["Success", 32]);
  assert.equal(attempts(paused).length, 1);
  assert.deepEqual(drawn(paused, 99).map((each) => each.split(" ")[0]), ["waits", "waits", "waits", "runs", "ends"]);
  assert.deepEqual([-1, 0, 2, 30, 64, 99].map((seconds) => stateAt(restarted, zero + seconds * 1000)), ["not begun", "Pending", "Running", "Failed", "Running", "Success"]);
});

test("a time that is typed is of the zone that is chosen, on both sides of where its clocks change", () => {
  const told = (name, text) => new Date(momentIn(name, text)).toISOString().slice(0, 16);
  assert.deepEqual(["2026-12-01T06:00", "2026-03-29T01:59", "2026-03-29T03:00", "2026-10-25T01:30", "2026-10-25T03:30"].map((text) => told("Europe/Berlin", text)),
    ["2026-12-01T05:00", "2026-03-29T00:59", "2026-03-29T01:00", "2026-10-24T23:30", "2026-10-25T02:30"]);
  assert.equal(told("UTC", "2026-12-01T00:00"), "2026-12-01T00:00");
  assert.equal(told("Asia/Kolkata", "2026-01-01T00:00"), "2025-12-31T18:30");
  assert.equal(told("America/Los_Angeles", "2026-12-31T23:59"), "2027-01-01T07:59");
});

test("a large graph has a column for each depth, and a node for what is called alike until it is opened", () => {
  const task = (id, name = id) => ({ id, name, mapped: false });
  const steps = Array.from({ length: 1500 }, (_, at) => task(`s${at}`, `step-${at}`));
  const tasks = [task("end"), ...steps, task("begin"), task("alone")];
  const edge = (from, to) => ({ upstream_task_id: from, downstream_task_id: to, mapped: false, key: null });
  const edges = steps.flatMap(({ id }) => [edge("begin", id), edge(id, "end")]);
  assert.deepEqual([drawn(tasks, edges), drawn(steps.slice(0, 400), []), drawn([...steps, ...steps, task("x")], [])], ["columns", "whole", null]);
  const folded = inColumns(tasks, edges, new Set());
  assert.deepEqual(folded.tasks.map((each) => each.name).sort(), ["alone", "begin", "end", "step …"]);
  const group = folded.tasks.find((each) => each.of);
  assert.deepEqual(new Set(group.of), new Set(steps));
  assert.deepEqual(folded.edges.map(({ from, to }) => [from, to]), [["begin", group.id], [group.id, "end"]]);
  const open = inColumns(tasks, edges, new Set([group.id]));
  assert.deepEqual([open.tasks.length, open.edges.length], [tasks.length, edges.length]);
  const places = [...open.nodes.values()].map(({ x, y }) => `${x} ${y}`);
  assert.equal(new Set(places).size, places.length, "no node is on another");
  for (const { from, to } of open.edges) assert.ok(open.nodes.get(from).x + NODE.width < open.nodes.get(to).x);
});

test("half of what is counted is within the bound of the bin where the half is reached", () => {
  const bins = [[0.1, 3], [1, 4], [null, 1]].map(([up_to, count]) => ({ up_to, count }));
  assert.deepEqual([0.1, 0.375, 0.5, 0.875, 1].map((part) => within(bins, part)), [0.1, 0.1, 1, 1, null]);
  assert.equal(within([], 0.5), null);
});

test("attempts go from each Running to what came after it", () => {
  const at = (second) => `2026-01-01T00:00:0${second}+00:00`;
  const states = ["Pending", "Running", "Failed", "Retrying", "Running", "Success"].map((state, place) => ({ state, version: place + 1, message: state, timestamp: at(place) }));
  assert.deepEqual(attempts(states).map((each) => [each.number, each.to - each.from, each.state]), [[1, 1000, "Failed"], [2, 1000, "Success"]]);
  assert.equal(attempts(states.slice(0, 5)).at(-1).to, null);
});

test("messages that differ in numbers and quoted parts are alike", () => {
  const rows = [["a", "bad row 7 of 'x'"], ["a", "bad row 12 of 'y'"], ["b", "bad row 7"], ["a", null]].map(([task_id, state_message]) => ({ task_id, state: "Failed", state_message }));
  assert.deepEqual(alike(rows).map((group) => group.rows.length), [2, 1, 1]);
  assert.equal(gist("took 1.5 s"), "took #.# s");
});

test("what runs in a bin is what began and has not ended", () => {
  for (let round = 0; round < 100; round += 1) {
    const bins = 1 + random(30);
    const spans = Array.from({ length: random(40) }, () => { const from = random(bins + 3) - 3; return [from, Math.min(bins - 1, from + random(6))]; });
    const count = (places) => [...places.reduce((sums, at) => sums.set(Math.max(-1, at), (sums.get(Math.max(-1, at)) ?? 0) + 1), new Map())];
    const shown = density({ started: count(spans.map(([from]) => from)), stopped: count(spans.map(([, to]) => to)), ended: [] }, bins);
    for (const bin of shown) assert.equal(bin.running, spans.filter(([from, to]) => from <= bin.at && to >= bin.at).length);
  }
});

test("a folded axis keeps the order of time, and its ends", () => {
  const lane = Array.from({ length: 60 }, (_, at) => ({ at, running: at < 5 || at > 50 ? 1 : 0, ended: [] }));
  const breaks = waits([lane], 60);
  assert.deepEqual(breaks, [[5, 51]]);
  const place = axis(60, breaks);
  assert.equal(place(0), 0);
  assert.ok(Math.abs(place(60) - 1) < 1e-9);
  for (let at = 0.5; at <= 60; at += 0.5) assert.ok(place(at) >= place(at - 0.5));
  assert.ok(place(5) > 0.3, "what happened has the room");
  assert.deepEqual(ticks(0, 1000, 5), [0, 200, 400, 600, 800, 1000]);
});

test("a form reads what was typed as what is meant", () => {
  const of = (schema, text, more = {}) => readField(inputs([{ name: "p", required: true, schema, ...more }], {})[0], text);
  assert.deepEqual(of({ type: "integer" }, "0"), { value: 0 });
  assert.deepEqual(of({ type: "integer" }, " -7 "), { value: -7 });
  assert.match(of({ type: "integer" }, "1.5").problem, /p is a whole number/);
  assert.match(of({ type: "integer" }, "").problem, /whole number/);
  assert.deepEqual(of({ type: "number" }, "1.25"), { value: 1.25 });
  assert.match(of({ type: "number" }, "NaN").problem, /number/);
  assert.match(of({ type: "number" }, "1e400").problem, /number/);
  assert.deepEqual(of({ type: "string" }, ""), { value: "" });
  assert.deepEqual(of({ type: "boolean" }, "false"), { value: false });
  assert.deepEqual(of({ enum: ["a", 2] }, "2"), { value: 2 });
  assert.deepEqual(of(null, "{}"), { value: {} });
  assert.deepEqual(of(null, "[]"), { value: [] });
  assert.deepEqual(of({ type: "array", items: { type: "integer" } }, "[1, 2]"), { value: [1, 2] });
  assert.match(of(null, "{").problem, /JSON/);
  assert.match(of({ type: "string", format: "date-time" }, "soon").problem, /time/);
  const large = of({ type: "integer" }, "9223372036854775808").value;
  assert.ok(large instanceof Typed);
  assert.equal(encode({ n: large, s: "x" }), '{"n": 9223372036854775808, "s": "x"}');
  assert.equal(encode({ n: of(null, "[12345678901234567890, 1e400, 1.5]").value }), '{"n": [12345678901234567890, 1e400, 1.5]}');
  const [again] = inputs([{ name: "p", required: true }], { p: of(null, "[12345678901234567890]").value });
  assert.equal(again.initial, "[12345678901234567890]");
  assert.equal(encode({ a: [{ n: large }, null], b: undefined }), '{"a": [{"n": 9223372036854775808}, null]}');
  assert.equal(encode(of({ type: "integer" }, "+0009223372036854775808").value), "9223372036854775808");
});

test("limits are what was typed, and none of what was not", () => {
  const typed = (given) => limits({ concurrency: "", tags: "", rate: "", timeout: "", ...given });
  assert.deepEqual(typed({ concurrency: " 5 ", tags: "db=2, a=b=none" }), { concurrency: 5, tags: { db: 2, "a=b": null } });
  assert.deepEqual(typed({ rate: "10/1m", timeout: "2h" }), { rate: { count: 10, period: 60 }, timeout: 7200 });
  assert.deepEqual(typed({ concurrency: "none", rate: "none", timeout: "none" }), { concurrency: null, rate: null, timeout: null });
  for (const [field, text] of [["concurrency", "-1"], ["concurrency", "many"], ["tags", "db"], ["tags", "=2"], ["rate", "10"], ["rate", "10/1"], ["timeout", "2 weeks"]]) assert.throws(() => typed({ [field]: text }), /, not /, text);
  assert.throws(() => typed({}), /at least one/);
  assert.deepEqual(json('{"a": [1]}'), { a: [1] });
  assert.throws(() => json("ann"), /JSON/);
});

test("a form begins with the defaults, and what is left to them is not required", () => {
  const [plain, grouped, optional] = inputs([{ name: "a", required: true, default: null }, { name: "b", required: true, default: null }, { name: "__proto__", required: false, default: { x: 1 } }], { b: 5 });
  assert.deepEqual([plain.required, plain.initial], [true, ""]);
  assert.deepEqual([grouped.required, grouped.initial], [false, "5"]);
  assert.deepEqual([optional.required, optional.initial], [false, '{"x": 1}']);
  assert.equal(inputs([{ name: "n", required: false, schema: { anyOf: [{ type: "integer" }, { type: "null" }] } }], {})[0].kind, "integer");
});

test("a link goes where people may go, whatever it pretends", () => {
  for (const bad of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "\u0001javascript:alert(1)", "java\nscript:alert(1)", "data:text/html,x", "vbscript:x", "//evil.example", " file:///etc/passwd"]) assert.equal(safeLink(bad), null, bad);
  for (const good of ["https://a.test/x?y#z", "http://a.test", "mailto:a@b.test", "runs/1", "#x", "?a=b"]) assert.equal(safeLink(good), good);
  assert.equal(safePicture("https://evil.example/p.png"), null);
  assert.equal(safePicture("data:image/svg+xml;base64,AAAA"), null);
  assert.ok(safePicture("data:image/png;base64,AAAA"));
});

test("what cannot be seen is shown, colours of terminals become styles, addresses become links", () => {
  assert.equal(visible("a\u202eb\u0000c"), "a⟦U+202E⟧b␀c");
  assert.deepEqual(pieces("\u001b[31mred\u001b[0m plain"), [{ text: "red", style: "ansi-red" }, { text: " plain", style: "" }]);
  assert.deepEqual(pieces("\u001b]8;;javascript:alert(1)\u0007x"), [{ text: "x", style: "" }]);
  assert.deepEqual(pieces("see https://a.test/x."), [{ text: "see ", style: "" }, { text: "https://a.test/x", style: "", href: "https://a.test/x" }, { text: ".", style: "" }]);
});

test("Markdown is a tree, and what it does not know is text", () => {
  const kinds = parse("# A\n\ntext **b** `c`\n\n- one\n- two\n\n> q\n\n```\n<b>\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---").map((node) => node.type);
  assert.deepEqual(kinds, ["heading", "paragraph", "list", "quote", "code", "table", "rule"]);
  assert.deepEqual(inline("[x](javascript:alert(1))").map((node) => node.type), ["text", "text"]);
  assert.equal(inline("![x](https://evil.example/p.png)")[0].type, "text");
  assert.deepEqual(parse("<script>alert(1)</script>"), [{ type: "paragraph", children: [{ type: "text", text: "<script>alert(1)</script>" }] }]);
  for (const endless of ["*".repeat(5000), "[".repeat(5000), "`".repeat(5001), ">".repeat(500), "|".repeat(3000) + "\n|-"]) parse(endless);
});

test("the graph is laid out once, a task after those before it", async () => {
  const tasks = [..."dcba"].map((id) => ({ id, name: id, mapped: false }));
  const edges = [["a", "b"], ["b", "c"], ["a", "c"], ["c", "d"]].map(([from, to]) => ({ upstream_task_id: from, downstream_task_id: to, mapped: false, key: null }));
  assert.deepEqual(inOrder(tasks, edges).map((task) => task.id), ["a", "b", "c", "d"]);
  const layout = layOut(await import("../../../backends/server/ui/static/vendor/dagre.js"), tasks, edges);
  for (const edge of edges) assert.ok(layout.nodes.get(edge.upstream_task_id).x < layout.nodes.get(edge.downstream_task_id).x);
  assert.equal(layout.edges.length, 4);
});

test("times are said in the zone that was chosen, durations in two units", () => {
  const moment = Date.UTC(2026, 6, 1, 22, 30, 5, 250);
  zone.value = "Europe/Berlin";
  assert.equal(full(moment), "2026-07-02 00:30:05.250 Europe/Berlin (UTC+02:00)");
  zone.value = "UTC";
  assert.ok(clock(moment).endsWith("22:30:05"));
  assert.deepEqual([999, 1500, 61_000, 3_600_000, 90_000_000, 200_000_000].map(duration), ["999 ms", "1.5 s", "1 min 1 s", "1 h", "25 h", "2 d 7 h"]);
});

test("the command of a form creates what the form would", () => {
  const fields = inputs([{ name: "n", schema: { type: "integer" } }, { name: "word", schema: { type: "string" } }, { name: "any" }, { name: "left", default: 3 }], {});
  const parameters = { n: 3, word: "it's 3; rm", any: new Typed("[12345678901234567890]") };
  const asked = { parameters, flow_run_name: null, labels: null, scheduled_start_time: null };
  assert.equal(command("all prices", fields, asked), `flowloop create 'all prices' -p n=3 -p 'word=it'\\''s 3; rm' -p 'any=[12345678901234567890]'`);
  const more = { parameters: { any: "3" }, flow_run_name: "$(x)", labels: ["a", "b c"], scheduled_start_time: "2031-01-01T06:00:00.000Z" };
  assert.equal(command("prices", fields, more), `flowloop create prices -p 'any="3"' --name '$(x)' --label a --label 'b c' --at 2031-01-01T06:00:00.000Z`);
});

