"""The evaluate job with baselines alone."""

import json

from prepared_folder import prepared_folder
from simple_log import simple_log

from gru4rec import cli, config
from gru4rec.evaluation import baselines
from gru4rec.evaluation.job import evaluate


def test_all_baselines_with_one_flag(tmp_path, capsys):
    train, test = simple_log(80, 30, seed=1)[0], simple_log(20, 30, seed=2)[0]
    folder = prepared_folder(tmp_path / "data", {"train": train, "test": test}, 30).folder
    names = " ".join(baselines.NAMES)
    code = cli.run(config.Evaluate, evaluate, f"--data {folder} --baselines {names} --cutoffs 5".split())
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result = json.loads(captured.out.splitlines()[-1])
    assert result["predictions"] == test.transitions
    for name in baselines.NAMES:
        assert result["metrics"][name] == baselines.evaluate(name, train, test, 30, (5,)).result()
        assert name in captured.err
