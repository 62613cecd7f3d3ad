"""Signs in as openstacksdk does, once for each row that comes as JSON on stdin: the
files are in dir, which is the current directory and, in home, the user's. Prints for
each row what became of it."""
import importlib
import json
import os
import sys
import warnings

import keystoneauth1.loading
import openstack.config.loader as loader

warnings.simplefilter("ignore")


def sign_in(row):
    os.chdir(row["dir"])
    for name in list(os.environ):
        if name.startswith("OS_") or name == "XDG_CONFIG_HOME":
            del os.environ[name]
    os.environ.update(row["env"], HOME=os.path.join(row["dir"], "home"))
    importlib.reload(loader)  # it notes the directories when it is loaded
    # The openstack command gives the region of the environment like this.
    c = loader.OpenStackConfig().get_one(region_name=os.environ.get("OS_REGION_NAME"))
    c.get_session().get_token()
    verify, cert = c.get_requests_verify_args()
    return {"verify": verify, "cert": cert,
            "cinder": c.get_session_endpoint("block-storage"), "glance": c.get_session_endpoint("image")}


answers = []
keystoneauth1.loading.get_plugin_loader("password")  # looks for plug-ins, which takes long, before the forks
for row in json.load(sys.stdin):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = sign_in(row)
        except BaseException as e:
            answer = {"error": "%s: %s" % (type(e).__name__, e)}
        os.write(w, json.dumps(answer).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        answers.append(json.load(f))
    os.waitpid(pid, 0)
json.dump(answers, sys.stdout)
