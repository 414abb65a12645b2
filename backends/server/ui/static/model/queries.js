// Every question that the page asks. A test checks each against the schema, runs it, and reads its plan.

const STATE = "id name state state_message state_timestamp version start_time end_time";
const FLOW = "id name version description is_schedule_active schedule parameters flow_group { description schedule default_parameters }";

export const WHO = `query Who { auth_info { key_name scopes } api { flowloop } }`;

export const RUNS = `query Runs($where: flow_run_bool_exp, $limit: Int!) {
  flow_run(where: $where, order_by: [{created: desc}, {id: desc}], limit: $limit) {
    ${STATE} created flow { name } } }`;

export const UPCOMING = `query Upcoming($now: timestamptz!) {
  flow_run(where: {state: {_eq: "Scheduled"}, scheduled_start_time: {_gt: $now}}, order_by: {scheduled_start_time: asc}, limit: 50) {
    id name scheduled_start_time flow { name } } }`;

export const RUN_COUNTS = `query Counts($from: DateTime!, $every: String!, $where: flow_run_bool_exp) {
  flow_run_counts(from: $from, every: $every, where: $where) { key at count } }`;

export const FLOW_NAMES = `query FlowNames {
  flow(where: {archived: {_eq: false}}, distinct_on: [name], order_by: [{name: asc}, {version: desc}], limit: 500) { name } }`;

export const NAMES = `query Names($ids: [uuid!]!) { flow(where: {id: {_in: $ids}}, limit: 500) { id name } }`;

export const HEAD = `query Head($run: uuid!) {
  flow_run_by_pk(id: $run) {
    ${STATE} serialized_state parameters context labels scheduled_start_time auto_scheduled times_resurrected
    parent_task_run { map_index task { id name } flow_run { id name state } }
    flow { id name version parameters
      tasks(order_by: {id: asc}) { id slug name mapped trigger max_retries tags }
      edges { upstream_task_id downstream_task_id mapped key } }
    directives(order_by: {created: desc}, limit: 100) { kind author created task map_index note obeyed }
    states(order_by: {version: desc}, limit: 200) { version state message timestamp } } }`;

export const SUMMARY = `query Summary($run: UUID!) {
  run_summary(flow_run_id: $run) { version tasks { task_id states start_time end_time again } } }`;

export const DURATIONS = `query Durations($run: UUID!) {
  run_summary(flow_run_id: $run) { durations { task_id up_to count } } }`;

export const ATTENTION = `query Attention($run: uuid!, $states: [String!]!) {
  task_run(where: {flow_run_id: {_eq: $run}, state: {_in: $states}}, order_by: {updated: desc}, limit: 200) {
    id task_id map_index state state_message state_timestamp version } }`;

export const ROWS = `query Rows($run: uuid!, $task: uuid!, $from: Int!, $limit: Int!) {
  task_run(where: {flow_run_id: {_eq: $run}, task_id: {_eq: $task}, map_index: {_gte: $from}}, order_by: {map_index: asc}, limit: $limit) {
    id task_id map_index state state_message start_time end_time version } }`;

export const FOUND = `query Found($where: task_run_bool_exp!, $order: [task_run_order_by], $limit: Int!) {
  task_run(where: $where, order_by: $order, limit: $limit) {
    id flow_run_id task_id map_index state state_message start_time end_time version } }`;

export const LONGEST = `query Longest($run: UUID!, $where: task_run_bool_exp, $after: UUID, $limit: Int!) {
  longest_task_runs(flow_run_id: $run, where: $where, after: $after, limit: $limit) { task_run_id } }`;

export const TASK_RUN = `query TaskRun($run: uuid!, $task: uuid!, $index: Int!) {
  task_run(where: {flow_run_id: {_eq: $run}, task_id: {_eq: $task}, map_index: {_eq: $index}}, limit: 1) {
    ${STATE} map_index serialized_state cache_key heartbeat
    states(order_by: {version: asc}, limit: 500) { id version state message timestamp start_time }
    artifacts(order_by: {created: asc}, limit: 100) { id kind data created }
    children(order_by: {created: asc}, limit: 50) { id name state flow { name } } } }`;

export const ATTEMPTS = `query Attempts($ids: [uuid!]!) {
  task_run_state(where: {task_run_id: {_in: $ids}}, order_by: {version: asc}, limit: 20000) {
    task_run_id version state timestamp } }`;

export const RUN_ATTEMPTS = `query RunAttempts($runs: [uuid!]!) {
  flow_run_state(where: {flow_run_id: {_in: $runs}}, order_by: {version: asc}, limit: 20000) {
    flow_run_id version state timestamp } }`;

export const TIMELINE = `query Timeline($run: UUID!, $from: DateTime, $to: DateTime, $bins: Int!) {
  run_timeline(flow_run_id: $run, from: $from, to: $to, bins: $bins) { from to bins tasks { task_id started stopped ended } } }`;

export const LINES = `query Lines($where: log_bool_exp!, $limit: Int!) {
  log(where: $where, order_by: [{timestamp: desc}, {id: desc}], limit: $limit) { id timestamp level name message task_run_id } }`;

export const PARTS = `query Parts($run: uuid!) {
  flow_run(where: {parent_task_run: {flow_run_id: {_eq: $run}}}, order_by: [{created: asc}, {id: asc}], limit: 50) {
    ${STATE} flow { name } parent_task_run { task_id map_index } } }`;

export const ARTIFACTS = `query Artifacts($run: uuid!) {
  task_run_artifact(where: {flow_run_id: {_eq: $run}}, order_by: {created: desc}, limit: 200) {
    id kind data created task_run { task_id map_index } } }`;

export const FLOWS = `query Flows {
  flow(where: {archived: {_eq: false}}, distinct_on: [flow_group_id], order_by: [{flow_group_id: asc}, {version: desc}], limit: 200) {
    ${FLOW} } }`;

export const ONE_FLOW = `query OneFlow($id: uuid!) {
  flow_by_pk(id: $id) { ${FLOW} } }`;

export const LAST_RUNS = `query LastRuns($flow: uuid!) {
  flow_run(where: {flow_id: {_eq: $flow}, state: {_neq: "Scheduled"}}, order_by: {created: desc}, limit: 20) {
    id name state version start_time end_time } }`;

export const NEXT_DATES = `query NextDates($schedule: JSON!) { preview_schedule(schedule: $schedule, count: 5) }`;

export const INBOX = `query Inbox {
  task_run(where: {state: {_eq: "Paused"}}, order_by: {updated: desc}, limit: 100) {
    id version map_index state_message state_timestamp serialized_state task { id name }
    flow_run { id name labels flow { name } } } }`;

export const GOING_ON = `query GoingOn($runs: [UUID!]!) { going_on(flow_run_ids: $runs) { flow_run_id picked_up_by because } }`;

export const INPUTS = `query Inputs($id: uuid!) {
  task_run_by_pk(id: $id) {
    task { upstream_edges(order_by: {id: asc}, limit: 100) { key mapped upstream_task { id slug name } } }
    flow_run { id parameters flow { parameters } } } }`;

export const PROBLEMS = `query Problems {
  task_run(where: {state: {_in: ["Failed", "TimedOut"]}}, order_by: {updated: desc}, limit: 20) {
    id map_index state state_message state_timestamp task { id name } flow_run { id name flow { name } } } }`;

export const WORK = `query Work {
  workers { name labels flow_names concurrency running seen alive flow_runs { id name } }
  limits { id kind name limit used period }
  queue { ready later flow_runs { flow_run_id name state flow_name since because } }
  agent(order_by: {last_queried: desc}, limit: 50) { id name labels last_queried } }`;

export const NOTIFICATIONS = `query Notifications { notifications { name kind target events flow after } }`;

export const QUEUE = `query Queue { queue { flow_runs { flow_run_id because } } }`;

export const SEARCH = `query Search($text: String!) {
  search(text: $text, limit: 20) { kind id name state at of map_index } }`;

export const TASK_OF = `query TaskOf($id: uuid!) { task_run_by_pk(id: $id) { task_id map_index flow_run_id } }`;

export const CANCEL = `mutation Cancel($input: cancel_flow_run_input!) { cancel_flow_run(input: $input) { state } }`;
export const RESTART = `mutation Restart($input: restart_flow_run_input!) { restart_flow_run(input: $input) { state } }`;
export const DIRECT = `mutation Direct($input: direct_flow_run_input!) { direct_flow_run(input: $input) { id state } }`;
export const START = `mutation Start($input: create_flow_run_input!) { create_flow_run(input: $input) { id } }`;
export const SCHEDULE_ON = `mutation On($input: set_schedule_active_input!) { set_schedule_active(input: $input) { success } }`;
export const SCHEDULE_OFF = `mutation Off($input: set_schedule_inactive_input!) { set_schedule_inactive(input: $input) { success } }`;
export const ANSWER = `mutation Answer($input: answer_task_run_input!) { answer_task_run(input: $input) { state version picked_up_by } }`;
export const TAG_LIMIT = `mutation TagLimit($input: update_task_tag_limit_input!) { update_task_tag_limit(input: $input) { id } }`;
export const RATE_LIMIT = `mutation RateLimit($input: update_task_rate_limit_input!) { update_task_rate_limit(input: $input) { id } }`;
export const FLOW_LIMIT = `mutation FlowLimit($input: update_flow_concurrency_limit_input!) { update_flow_concurrency_limit(input: $input) { id } }`;

export const RUN_CHANGES = `subscription RunChanges($run: UUID!, $after: String) {
  run_changes(flow_run_id: $run, after: $after) { cursor reset run tasks { task_id states start_time end_time again } } }`;
export const RUNS_CHANGES = `subscription RunsChanges($after: String) {
  runs_changes(after: $after) { cursor reset paused flow_runs { id name flow_id version state message timestamp parent_task_run_id } } }`;
export const RUN_LOGS = `subscription RunLogs($run: UUID!, $taskRun: UUID, $levels: [String!], $after: String) {
  run_logs(flow_run_id: $run, task_run_id: $taskRun, levels: $levels, after: $after) {
    cursor lines { id task_run_id timestamp name level message } } }`;
