"""How much the suite did."""

import pytest

pytestmark = pytest.mark.chaos


def test_at_least_thirty_faults_were_injected(request, injected):
    modules = {item.path.stem for item in request.session.items if "chaos" in item.keywords}
    if len(modules) < 8:
        pytest.skip("only a part of the suite runs")
    assert len(injected) >= 30
