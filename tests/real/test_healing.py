"""What has to work: after a run, whatever could not pull can."""

from case import SCRIPT
from lab import OTHER_ACCOUNT, OTHER_REGION, ecr_host, wait_until
from promise import blackhole, deploy_stack, more_stacks, stacks


@more_stacks
def test_worker_joins_after_token_died(case, verdict):
    """The token is dead, a worker joins and cannot pull: one run, and it runs there"""
    # given
    case.create("web", "--mode global")
    before = case.runs("web", 2)
    case.lab.rotate()
    newcomer = case.join()
    case.rejected("web")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    runs = case.seen(lambda: case.runs_on("web", newcomer))
    verdict("runs" if runs else "is rejected", seed="runs", script="runs")
    assert before < case.runs("web", 3)


@more_stacks
def test_running_tasks_are_not_restarted(case, verdict):
    """Running tasks, replicated and global, restart condition any, on-failure, none"""
    # given
    names = [
        f"{mode}-{condition}"
        for mode in ("replicated", "global")
        for condition in ("any", "on-failure", "none")
    ]
    for name in names:
        mode, condition = name.split("-", 1)
        case.create(name, f"--mode {mode} --restart-condition {condition}")
    before = {name: case.runs(name, 2 if name.startswith("global") else 1) for name in names}
    case.lab.rotate()
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    assert [case.updates(name) for name in names] == [1] * 6
    case.seen(lambda: any(case.task_ids(name) != before[name] for name in names), by=())
    restarted = [name for name in names if case.task_ids(name) != before[name]]
    verdict(
        f"restarted: {restarted}" if restarted else "go on, all 6 refreshed",
        seed="go on, all 6 refreshed",
        script="go on, all 6 refreshed",
    )


STUCK = {
    "any": "--restart-condition any",
    "on-failure": "--restart-condition on-failure",
    "none": "--restart-condition none",
    "any-used-up": "--restart-condition any --restart-max-attempts 1",
    "global-any": "--mode global --restart-condition any",
    "global-on-failure": "--mode global --restart-condition on-failure",
    "global-none": "--mode global --restart-condition none",
}


@more_stacks
def test_stuck_services_heal(case, verdict):
    """Services whose tasks were rejected because the token died, any restart condition"""
    # given: tasks that can start only when their node has come, and the token is dead by then
    constraint, label = case.label()
    for name, options in STUCK.items():
        case.create(name, constraint, options)
    case.lab.rotate()
    case.give(case.lab.workers[0], label)
    case.rejected(*STUCK)
    wait_until(lambda: case.lab.states("any-used-up") == ["rejected"] * 2, "attempts are used up")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    case.seen(lambda: all(case.running(name) for name in STUCK))
    stuck = [name for name in STUCK if not case.running(name)]
    verdict(
        f"stuck: {', '.join(stuck)}" if stuck else "all 7 heal",
        seed="all 7 heal",
        script="all 7 heal",
    )


@stacks
def test_two_regions_and_two_accounts(case, verdict):
    """Services in two regions and two accounts, all stuck"""
    # given
    hosts = [
        ecr_host(),
        ecr_host(OTHER_ACCOUNT),
        ecr_host(region=OTHER_REGION),
        ecr_host(OTHER_ACCOUNT, OTHER_REGION),
    ]
    names = stuck_services(case, hosts)
    # when
    result = case.refresh(hosts=hosts)
    # then
    assert result.returncode == 0, result
    case.seen(lambda: all(case.running(name) for name in names))
    stuck = [name for name in names if not case.running(name)]
    verdict(f"stuck: {stuck}" if stuck else "all heal", seed="all heal", script="all heal")


@stacks
def test_one_region_is_down(case, verdict):
    """Services in two regions, and AWS refuses one of them"""
    # given
    hosts = [ecr_host(region=OTHER_REGION), ecr_host()]
    lost, kept = stuck_services(case, hosts)
    case.lab.registries.refuse(OTHER_REGION)
    # when
    result = case.refresh(hosts=hosts)
    # then
    assert result.returncode == 1, result
    healed = case.seen(lambda: case.running(kept), by=[SCRIPT])
    assert not case.updates(lost), result
    verdict(
        "the other region's heal, exit 1" if healed else "none heals, exit 1",
        seed="none heals, exit 1",
        script="the other region's heal, exit 1",
    )


def stuck_services(case, hosts):
    """One service a host, all of them rejected by the worker because their tokens died."""
    constraint, label = case.label()
    case.lab.login(case.manager, *hosts)
    names = [f"service{number}" for number, _ in enumerate(hosts)]
    for name, host in zip(names, hosts):
        case.create(name, constraint, image=case.lab.image(host=host))
    case.lab.rotate()
    case.give(case.lab.workers[0], label)
    case.rejected(*names)
    return names


@stacks
def test_stack_deployed_from_another_machine(case, verdict):
    """After docker stack deploy --with-registry-auth from another machine"""
    # given
    _, label = case.label()
    deploy_stack(case, label, case.lab.image(), case.lab.folder / "build-machine")
    case.lab.rotate()
    case.give(case.lab.workers[0], label)
    case.rejected("shop_web")
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    heals = case.seen(lambda: case.running("shop_web"))
    verdict("heals" if heals else "stays stuck", seed="heals", script="heals")


@stacks
def test_refresh_that_met_a_pull_failure(case, verdict):
    """Services on which a refresh itself has paused, since the token it brought was dead"""
    # given: one still has the node that cannot pull, the other runs all it should
    worker = case.lab.workers[0]
    labels = {name: paused_refresh(case, name) for name in ("stuck", "healthy")}
    case.take(worker, labels["healthy"])
    wait_until(
        lambda: len(case.lab.tasks("healthy")) >= 1 and not case.runs_on("healthy", worker),
        "the node is gone",
    )
    updates = {name: case.updates(name) for name in labels}
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    refreshed = [name for name in labels if case.updates(name) == updates[name] + 1]
    verdict(
        "refreshed" if len(refreshed) == 2 else f"refreshed: {refreshed}",
        seed="refreshed",
        script="refreshed",
    )
    case.runs("stuck", 2)


def paused_refresh(case, name):
    """A global service that runs on the manager and paused at a refresh because of the worker."""
    constraint, label = case.label()
    case.lab.login(case.manager)
    case.create(name, "--mode global", constraint)
    case.give(case.manager, label)
    case.runs(name)
    case.lab.rotate()
    case.lab.login(case.manager)
    case.lab.rotate()  # dead when it is sent, and not the one that the tasks have
    case.give(case.lab.workers[0], label)
    case.rejected(name)
    case.update(name, "--with-registry-auth")
    case.rollout_is(name, "paused")
    service = case.lab.service(name)
    assert service["PreviousSpec"] == service["Spec"]
    return label


def refresh_pauses_its_rollback(case, name):
    """Refresh during an outage; a rollback that meets no task to start in it completes instead."""
    case.lab.rotate()
    case.lab.login(case.manager)
    case.update(name, "--with-registry-auth")
    case.rollout_is(name, "rollback_paused", "rollback_completed")
    return case.rollout(name) == "rollback_paused"


@stacks
def test_refresh_that_rolled_itself_back(case, verdict):
    """A refresh that met an outage, whose automatic rollback met it, too"""
    # given
    worker = case.lab.workers[0]
    constraint, label = case.label()
    case.give(case.manager, label)
    case.create(
        "web", "--mode global --update-failure-action rollback --update-monitor 2s", constraint
    )
    case.runs("web")
    with blackhole(worker):
        case.give(worker, label)
        case.rejected("web")
        wait_until(lambda: refresh_pauses_its_rollback(case, "web"), "a rollback pauses", 90)
    # when
    result = case.refresh()
    # then
    assert result.returncode == 0, result
    healed = case.seen(lambda: len(case.running("web")) == 2)
    verdict("heals" if healed else "stays stuck", seed="heals", script="heals")
