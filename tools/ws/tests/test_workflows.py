from ws._workflows import workflows

GOOD = """
name: ci
on: pull_request
permissions: {}
concurrency:
  group: ci-${{ github.ref }}
jobs:
  test:
    name: test
    runs-on: ubuntu-24.04
    steps:
      - run: make test
"""


def test_without_workflows_there_is_nothing_to_say(complaints):
    assert complaints(workflows) == []


def test_a_valid_workflow_passes(scratch, complaints):
    scratch.write(".github/workflows/ci.yml", GOOD)
    assert complaints(workflows) == []


def test_a_workflow_outside_the_schema_is_reported(scratch, complaints):
    scratch.write(".github/workflows/ci.yaml", GOOD.replace("runs-on", "run-on"))
    found = complaints(workflows)
    assert ".github/workflows/ci.yaml: " in found[0]
    assert "run-on" in found[0] or "runs-on" in found[0]


def test_a_workflow_that_is_no_yaml_is_reported(scratch, complaints):
    scratch.write(".github/workflows/ci.yml", "a: [\n")
    assert ".github/workflows/ci.yml: " in complaints(workflows)[0]


def test_dependabot_has_its_own_schema(scratch, complaints):
    file = ".github/dependabot.yml"
    update = "package-ecosystem: uv, directory: /, schedule: {interval: weekly}"
    scratch.write(file, f"version: 2\nupdates: [{{{update}}}]\n")
    assert complaints(workflows) == []
    scratch.write(".github/workflows/ci.yml", GOOD.replace("runs-on", "run-on"))
    scratch.change(file, "weekly", "sometimes")
    found = complaints(workflows)
    assert {one.partition(":")[0] for one in found} == {file, ".github/workflows/ci.yml"}
    assert "sometimes" in found[0]


def test_an_injection_is_found_without_the_network(scratch, complaints):
    title = "echo ${{ github.event.pull_request.title }}"
    scratch.write(".github/workflows/ci.yml", GOOD.replace("make test", title))
    (found,) = complaints(workflows)
    assert "template-injection" in found
