"""Installs a chart by Helm's own library, once for each of the values, and prints what it sends to the API server
each time, JSON.

HELM_DRIVER=memory helm.py CHART < list-of-values.json

The API server is a stand-in that knows the kinds below, keeps what it is sent, and gives it back. What is left
there when Helm has uninstalled the chart is an error.
"""

import asyncio
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helm_sdkpy as helm

KINDS = {
    "v1": ["ConfigMap", "Namespace", "ServiceAccount"],
    "apps/v1": ["DaemonSet"],
    "monitoring.coreos.com/v1": ["PodMonitor", "PrometheusRule"],
}
VERBS = ["create", "delete", "get", "list", "patch", "update"]
STORE = {}


def group(version):
    return {"groupVersion": version, "version": version.split("/")[1]}


def resource(kind):
    name = kind.lower()
    namespaced = kind != "Namespace"
    return {"name": name + "s", "singularName": name, "kind": kind, "namespaced": namespaced, "verbs": VERBS}


ANSWERS = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "groups": [
            {"name": version.split("/")[0], "versions": [group(version)], "preferredVersion": group(version)}
            for version in KINDS
            if "/" in version
        ],
    },
} | {
    f"/api{'s' if '/' in version else ''}/{version}": {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [resource(kind) for kind in kinds],
    }
    for version, kinds in KINDS.items()
}


class Server(BaseHTTPRequestHandler):
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        found = ANSWERS.get(path) or STORE.get(path)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        self.answer(200 if found else 404, found or missing)

    def sent(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_POST(self):
        path, sent = self.path.partition("?")[0], self.sent()
        STORE[f"{path}/{sent['metadata']['name']}"] = sent
        self.answer(201, sent)

    def do_DELETE(self):
        self.sent()
        self.answer(200, STORE.pop(self.path.partition("?")[0]))

    def log_message(self, *_):
        pass


async def main(chart, values):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w") as kubeconfig:
        cluster = {"server": f"http://127.0.0.1:{server.server_port}"}
        json.dump(
            {
                "clusters": [{"name": "test", "cluster": cluster}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "users": [{"name": "test", "user": {}}],
                "current-context": "test",
            },
            kubeconfig,
        )
        kubeconfig.flush()
        configuration = helm.Configuration(namespace="truepeer", kubeconfig=kubeconfig.name)
        lint = await helm.Lint(configuration).run(chart_path=chart)
        wrong = [message for message in lint["Messages"] if message["Severity"] > 1]
        assert not wrong, f"helm lint: {wrong}"
        sent = []
        for value in values:
            await helm.Install(configuration).run("truepeer", chart, values=value, wait=False)
            sent.append(list(STORE.values()))
            await helm.Uninstall(configuration).run("truepeer", wait=False)
            assert not STORE, f"helm uninstall left {list(STORE)}"
        print(json.dumps(sent))


try:
    asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
