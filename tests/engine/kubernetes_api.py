"""A double of the API of Kubernetes, on loopback: jobs with one pod each, which is a process of this computer."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"


class Pod:
    def __init__(self, job):
        self.job = job
        self.name = f"{job['metadata']['name']}-x1y2z"
        self.process = None
        self.written = b""
        self.code = None
        self.news = asyncio.Condition()

    async def run(self, began):
        [container] = self.job["spec"]["template"]["spec"]["containers"]
        _, *arguments = container["command"]
        given = {one["name"]: one["value"] for one in container["env"]}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env={**os.environ, **given}, stdout=asyncio.subprocess.PIPE, cwd="/"
        )
        await began()
        while chunk := await self.process.stdout.read(65536):
            await self.write(chunk)
        self.code = await self.process.wait()
        await self.write(b"")

    async def write(self, chunk):
        async with self.news:
            self.written += chunk
            self.news.notify_all()

    def kill(self, number):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    @property
    def document(self):
        ended = None
        if self.code is not None:
            reason = "Completed" if self.code == 0 else "OOMKilled" if self.code == -signal.SIGKILL else "Error"
            ended = {"terminated": {"exitCode": self.code if self.code >= 0 else 128 - self.code, "reason": reason}}
        return {
            "metadata": {
                "name": self.name,
                "labels": self.job["spec"]["template"]["metadata"]["labels"],
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"containers": [{"name": "body"}]},
            "status": {
                "containerStatuses": [
                    {
                        "name": "body",
                        "image": "i",
                        "imageID": "i",
                        "ready": ended is None,
                        "restartCount": 0,
                        "state": ended or {"running": {}},
                    }
                ]
            },
        }


class Api:
    """The server.

    Attributes:
        - manifests: the jobs that were created
        - refuses: why it refuses any job, if it does
        - runs: whether pods begin
    """

    def __init__(self):
        self.manifests = []
        self.refuses = None
        self.runs = True
        self._jobs = {}
        self._pods = {}
        self._events = []
        self._version = 1
        self._tasks = set()
        self._news = asyncio.Condition()
        self._watched = 0
        self.app = Starlette(
            routes=[
                Route(JOBS, self._create, methods=["POST"]),
                Route(JOBS, self._list, methods=["GET"]),
                Route(JOBS + "/{name}", self._delete, methods=["DELETE"]),
                Route(PODS, self._list_pods, methods=["GET"]),
                Route(PODS + "/{name}/log", self._log, methods=["GET"]),
            ]
        )

    @property
    def jobs(self):
        return sorted(self._jobs)

    def pod(self, name):
        return self._pods[name]

    def cut_off(self):
        """End all that is watched, and forget what was: whoever comes back asks for what is too old."""
        self._watched += 1
        self._events.clear()

    # -- what changes --------------------------------------------------------------------------------

    async def _changed(self, kind, job):
        async with self._news:
            self._version += 1
            job["metadata"]["resourceVersion"] = str(self._version)
            self._events.append((self._version, {"type": kind, "object": json.loads(json.dumps(job))}))
            self._news.notify_all()

    async def _set(self, job, **status):
        job["status"] = status
        if job["metadata"]["name"] in self._jobs:
            await self._changed("MODIFIED", job)

    async def _run(self, job):
        pod = self._pods[job["metadata"]["name"]]
        await pod.run(lambda: self._set(job, active=1, ready=1))
        kind = "Complete" if pod.code == 0 else "Failed"
        condition = {"type": kind, "status": "True", "reason": "BackoffLimitExceeded" if pod.code else None}
        await self._set(job, conditions=[{**condition, "message": "it is over" if pod.code else None}])

    def _begin(self, coroutine):
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, name):
        job, pod = self._jobs[name], self._pods.get(name)
        if pod is not None:
            pod.kill(signal.SIGTERM)
            if pod.process is not None:
                grace = job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(pod.process.wait(), grace)
                pod.kill(signal.SIGKILL)
                await pod.process.wait()
        if self._jobs.pop(name, None) is not None:
            await self._changed("DELETED", job)

    # -- what is asked -------------------------------------------------------------------------------

    async def _create(self, request):
        job = await request.json()
        name = job["metadata"]["name"]
        if self.refuses:
            return JSONResponse({"kind": "Status", "message": self.refuses, "code": 403}, 403)
        if name in self._jobs:
            return JSONResponse({"kind": "Status", "message": f'jobs "{name}" already exists', "code": 409}, 409)
        self.manifests.append(json.loads(json.dumps(job)))
        self._jobs[name] = job
        job["status"] = {}
        await self._changed("ADDED", job)
        if self.runs:
            self._pods[name] = Pod(job)
            self._begin(self._run(job))
        return JSONResponse(job, 201)

    async def _list(self, request):
        query = request.query_params
        if query.get("watch"):
            return StreamingResponse(self._watch(int(query["resourceVersion"])), media_type="application/json")
        found = {"kind": "JobList", "apiVersion": "batch/v1", "items": list(self._jobs.values())}
        return JSONResponse({**found, "metadata": {"resourceVersion": str(self._version)}})

    async def _watch(self, version):
        watched = self._watched
        if self._events and version < self._events[0][0] - 1:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            yield json.dumps({"type": "ERROR", "object": status}) + "\n"
            return
        while watched == self._watched:
            async with self._news:
                news = [event for number, event in self._events if number > version]
                if not news:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 0.2)
                    continue
                version = self._events[-1][0]
            for event in news:
                yield json.dumps(event) + "\n"

    async def _delete(self, request):
        name = request.path_params["name"]
        if name not in self._jobs:
            return JSONResponse({"kind": "Status", "message": "not found", "code": 404}, 404)
        self._begin(self._remove(name))
        return JSONResponse({"kind": "Status", "status": "Success"})

    async def _list_pods(self, request):
        _, _, name = request.query_params["labelSelector"].partition("=")
        items = [self._pods[name].document] if name in self._pods else []
        return JSONResponse({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _log(self, request):
        pod = next(one for one in self._pods.values() if one.name == request.path_params["name"])

        async def follow():
            sent = 0
            while True:
                async with pod.news:
                    while sent == len(pod.written) and pod.code is None:
                        await pod.news.wait()
                    chunk = pod.written[sent:]
                if not chunk:
                    return
                sent += len(chunk)
                yield chunk

        return StreamingResponse(follow(), media_type="text/plain")


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: double
contexts: [{name: double, context: {cluster: double, user: nobody}}]
clusters: [{name: double, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: nobody, user: {}}]
"""


@contextlib.asynccontextmanager
async def served(folder):
    """Serve the API, and yield it with the kubeconfig file that leads to it."""
    api = Api()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(api.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(server.serve([listening]))
        api.config_file = folder / "kubeconfig"
        api.config_file.write_text(KUBECONFIG % listening.getsockname()[1])
        try:
            yield api
        finally:
            api.cut_off()
            for pod in api._pods.values():
                pod.kill(signal.SIGKILL)
            server.should_exit = True
            await serving
            if api._tasks:
                await asyncio.wait(api._tasks)
