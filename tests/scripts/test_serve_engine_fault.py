"""scripts/serve.py when an engine fails: who waits is told, and the server ends."""

import os
import signal
import threading
import urllib.error
import urllib.request

import pytest
from checkout import load_script
from llmdata.errors import Fault
from llmserve.engine import Engine
from serving import PRECISION, parrot_model


@pytest.mark.parametrize("stream", ["true", "false"])
def test_step_that_fails(tmp_path, monkeypatch, capsys, stream):
    parrot_model(tmp_path / "parrot", ends=False)
    serve, said, listening, ended = load_script("serve"), [], threading.Event(), threading.Event()
    step, opened = Engine.step, serve.open_socket

    def failing(engine):
        if engine.counts().steps > 9:
            raise Fault("the device is gone")
        return step(engine)

    def listen(*where):
        listener = opened(*where)
        said.append(listener.getsockname()[1])
        listening.set()
        return listener

    def ask():
        listening.wait()
        body = b'{"prompt": "\\n", "max_tokens": 200, "stream": %s}' % stream.encode()
        url, headers = f"http://127.0.0.1:{said[0]}/v1/completions", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body, headers)
        try:
            said.append(urllib.request.urlopen(request, timeout=600).read())
        except urllib.error.HTTPError as error:
            said.append((error.code, error.read()))
        if not ended.wait(120):  # then the server will not end by itself
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Engine, "step", failing)
    monkeypatch.setattr(serve, "open_socket", listen)
    monkeypatch.setattr("sys.argv", ["serve.py", "--model", str(tmp_path / "parrot"), "--port", "0", "--precision", PRECISION])
    asking = threading.Thread(target=ask)
    asking.start()
    code = serve.main()
    ended.set()
    asking.join()
    assert code == 1
    assert capsys.readouterr().err.splitlines()[-1] == "serve: the engine failed: the device is gone"
    told = said[1] if stream == "true" else said[1][1]
    assert b'"message":"the engine failed' in told.replace(b": ", b":") and (stream == "true" or said[1][0] == 500)
