"""What old files call beside their flows: results, runners, configuration, helpers. Nothing in it knows of flowloop.

It prints what each of them gave as one JSON document.
"""

import datetime
import json
import os
import tempfile

import prefect
from prefect import Flow, Task, task
from prefect.core.edge import Edge
from prefect.engine.result import Result
from prefect.engine.results.local_result import LocalResult
from prefect.engine.results.prefect_result import PrefectResult
from prefect.engine.runner import ENDRUN
from prefect.engine.state import Failed, Pending, Success
from prefect.engine.task_runner import TaskRunner
from prefect.exceptions import AuthorizationError, ClientError, PrefectException
from prefect.executors.local import LocalExecutor
from prefect.schedules import filters
from prefect.tasks.database.sqlite import SQLiteQuery, SQLiteScript
from prefect.tasks.files import Copy, Glob, Move, Remove
from prefect.tasks.templates import StringFormatter
from prefect.utilities.collections import DotDict, as_nested_dict, dict_to_flatdict, flatdict_to_dict
from prefect.utilities.configuration import set_temporary_config
from prefect.utilities.debug import is_serializable

FOLDER = os.environ.get("HERE") or tempfile.mkdtemp()
found = {}


def ends_of(flow, *tasks):
    state = flow.run()
    return [state.result[one].result for one in tasks]


# -- results are read and written where they are called --------------------------------------------------

there = LocalResult(dir=FOLDER, location="{x}.pickle")
written = there.write({"k": 1}, x="one")
found["local"] = [os.path.basename(written.location), written.value, there.exists("one.pickle"), there.exists("two")]
found["read"] = [there.read("one.pickle").value, PrefectResult().read("[1, 2]").value, PrefectResult().exists("3")]


@task
def reads_in_a_body():
    return LocalResult(dir=FOLDER).read("one.pickle").value


class Shelf(Result):
    kept = {}

    def read(self, location):
        new = self.copy()
        new.location, new.value = location, self.kept[location]
        return new

    def write(self, value_, **kwargs):
        new = self.format(**kwargs)
        self.kept[new.location] = new.value = value_
        return new

    def exists(self, location, **kwargs):
        return location.format(**kwargs) in self.kept


found["shelf"] = [Shelf(location="{x}").write(5, x="a").location, Shelf().exists("a"), Shelf().read("a").value]
with Flow("results") as flow:
    body = reads_in_a_body()
    shelved = task(lambda: 7, name="shelved", target="seven", result=Shelf())()
found["in flows"] = [*ends_of(flow, body, shelved), Shelf.kept]

# -- runners ---------------------------------------------------------------------------------------------

increment = task(lambda x: x + 1, name="increment")
found["task runner"] = (
    TaskRunner(increment)
    .run(state=Pending(), upstream_states={Edge(Task(), increment, key="x"): Success(result=1)})
    .result
)
handled = []


def hears(tracked, old, new):
    handled.append([tracked.name, type(old).__name__, type(new).__name__])


with Flow("heard", state_handlers=[hears], executor=LocalExecutor()) as flow:
    increment(1)
flow.run()
found["handled"] = handled
try:
    raise ENDRUN(Failed("early"))
except ENDRUN as end:
    found["end"] = end.state.message

# -- the configuration -----------------------------------------------------------------------------------

with set_temporary_config({"flows.checkpointing": False, "mine.value": 2}):
    found["temporary"] = [prefect.config.flows.checkpointing, prefect.config.mine.value]
prefect.config.debug = True
found["set"] = [prefect.config.debug, prefect.config.flows.checkpointing, prefect.config.get("mine")]

# -- helpers ---------------------------------------------------------------------------------------------

dots = DotDict(a=1)
dots.b = 2
dots["c"] = 3
nested = as_nested_dict({"x": {"y": [{"z": 1}]}}, DotDict)
found["dots"] = [
    dict(dots),
    len(dots),
    "a" in dots,
    dots.get("z"),
    dots.pop("a"),
    sorted(dots.keys()),
    dots == {"b": 2},
]
found["nested"] = [nested.x.y[0].z, nested.to_dict(), flatdict_to_dict(dict_to_flatdict({"a": {"b": 1}}))]
found["serializable"] = [is_serializable(found), is_serializable(n for n in ())]
week = [datetime.datetime(2030, 1, day) for day in range(1, 8)]
found["days"] = [[day.day for day in week if filters.is_day_of_week(number)(day)] for number in range(7)]
found["errors"] = [issubclass(AuthorizationError, ClientError), issubclass(ClientError, PrefectException)]

# -- tasks of the library --------------------------------------------------------------------------------

database, text = os.path.join(FOLDER, "rows.db"), os.path.join(FOLDER, "a.text")
with open(text, "w") as file:
    file.write("x")
with Flow("library") as flow:
    made = SQLiteScript(db=database, script="create table t (n int); insert into t values (1), (2);")()
    rows = SQLiteQuery(db=database)(query="select n from t where n > ?", data=(1,), upstream_tasks=[made])
    copied = Copy(text, os.path.join(FOLDER, "b.text"))()
    moved = Move(target_path=os.path.join(FOLDER, "c.text"))(source_path=copied)
    removed = Remove()(text, upstream_tasks=[copied])
    paths = Glob(path=FOLDER, pattern="*.text")(upstream_tasks=[moved, removed])
    names = task(lambda paths: [path.name for path in paths], name="names")(paths)
    filled = StringFormatter(template="{who} of {flow_name}")(who="one")
found["library"] = [json.loads(json.dumps(one)) for one in ends_of(flow, rows, names, filled)]

if __name__ == "__main__":
    print(json.dumps(found))
