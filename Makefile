# `make` alone prints this list. Everything that needs no root sets up what it needs in .venv by itself.

# So that `ls` goes on to show five names.
export PYTHONDONTWRITEBYTECODE = 1

PYTHON ?= python3
PREFIX ?= /usr
DESTDIR ?=
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
# pip's first error is the one that tells.
OR_SAY_WHY = >.venv/pip.log 2>&1 || { echo "This needs PyPI, and pip says: $$(grep -im1 error .venv/pip.log)" >&2; exit 1; }
UNITS = ecr-swarm-login.service ecr-swarm-login.timer
UNIT_FOLDER = $(DESTDIR)/etc/systemd/system
REAL = $(wildcard tests/real/test_*.py)
BOOTED = $(wildcard $(foreach name,systemd units ways,tests/real/test_$(name)*.py))
IF_BOOTED = test -n "$(DESTDIR)" || ! test -d /run/systemd/system ||
# They go down only. What a reader audits are statements; lines are counted lest they grow instead.
STATEMENTS = 880
LINES = 1450

help:  ## print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# The demo needs the library sh alone: with python3-sh it goes without PyPI.
demo:  ## see the script at work in a pretend swarm; needs Python, and sh or PyPI
	@test -e .venv/sh || $(PYTHON) -c 'import sh' 2>/dev/null || \
	    $(MAKE) --silent --no-print-directory .venv/sh || \
	    { echo "The demo also goes without PyPI: apt-get install python3-sh" >&2; exit 1; }
	@python=$$(test -e .venv/sh && echo .venv/bin/python || echo $(PYTHON)) && $$python tests/demo/demo.py

test: .venv/ready  ## every test that needs no root
	.venv/bin/python -m pytest -q -n auto tests --ignore tests/real $(OPTIONS)

matrix: .venv/ready  ## those that depend on it with each Python and each sh that is to be had
	.venv/bin/python tests/matrix.py

fresh: .venv/ready  ## make test and make demo as a newcomer, in a fresh Debian 12 and 13; needs root
	.venv/bin/python tests/real/fresh.py make test demo

checksums:  ## write the files' checksums into the user-data of systemd/README.md
	$(PYTHON) tests/checksums.py

lint: .venv/lint  ## ruff, radon, statements and lines, mypy, vermin, shellcheck, systemd-analyze verify
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	mkdir -p .cache/units && cp systemd/* .cache/units/
	.venv/bin/radon cc --show-complexity --min C ecr_swarm_login.py >.cache/complex  # C: above 10
	! grep . .cache/complex
	.venv/bin/python tests/statements.py ecr_swarm_login.py $(STATEMENTS) $(LINES)
	.venv/bin/mypy --strict ecr_swarm_login.py
	.venv/bin/vermin --quiet --no-tips --violations -t=3.9- ecr_swarm_login.py
	shellcheck .ci/run tests/demo/loop.sh
	sed -i 's|/usr/bin/ecr_swarm_login.py|/bin/true|' .cache/units/*.service  # verify wants it installed
	systemd-analyze verify --man=no $(addprefix .cache/units/,$(UNITS))

# Not in CI. With OPTIONS="x_touched x_meets" those of functions whose names begin so.
mutants: .venv/mutants  ## mutation testing: do the tests of single functions notice each change?
	.venv/bin/python tests/unit/mutants.py $(OPTIONS)

e2e: .venv/ready  ## the promise, on real swarms in network namespaces; needs root
	.venv/bin/python -m pytest -q -n 5 --dist loadgroup --no-loadscope-reorder $(filter-out $(BOOTED),$(REAL)) $(OPTIONS)

e2e-systemd: .venv/ready  ## the units, on a booted system; needs root
	.venv/bin/python -m pytest -q -n 2 $(BOOTED) $(OPTIONS)

# With the Python that the script's first line names, if that has sh: so do its users.
walk: .venv/ready  ## random histories on real swarms, with no update, the script, a plain update; root
	.venv/bin/python tests/real/walk $(OPTIONS)

bench: .venv/ready  ## how fast it is, next to a plain loop, on a real swarm; needs root
	python=$$(/usr/bin/python3 -c 'import sh' 2>&- && echo /usr/bin/python3 || echo .venv/bin/python); $$python tests/real/bench.py

install:  ## copy the script and its units to $DESTDIR$PREFIX/bin and /etc/systemd/system
	@test -n "$(DESTDIR)" || /usr/bin/python3 -Ic 'import sh' 2>/dev/null || \
	    { echo "The system's Python lacks the library sh: apt-get install python3-sh, or pip3 install 'sh<3'" >&2; exit 1; }
	install -D -m 755 ecr_swarm_login.py "$(DESTDIR)$(PREFIX)/bin/ecr_swarm_login.py"
	for unit in $(UNITS); do install -D -m 644 systemd/$$unit "$(UNIT_FOLDER)/$$unit"; done
	sed -i 's|/usr/bin/ecr_swarm_login.py|$(PREFIX)/bin/ecr_swarm_login.py|' "$(UNIT_FOLDER)/ecr-swarm-login.service"
	@$(IF_BOOTED) systemctl daemon-reload
	@test -n "$(DESTDIR)" || echo "To start it: systemctl enable --now ecr-swarm-login.timer"

uninstall:  ## remove them; /etc/default/ecr-swarm-login is yours, and stays
	@if ! test -e "$(UNIT_FOLDER)/ecr-swarm-login.service"; then echo "It is not installed"; else \
	    $(MAKE) --silent --no-print-directory remove; fi

remove:
	@$(IF_BOOTED) systemctl disable --now $(UNITS) 2>/dev/null || true
	@$(IF_BOOTED) systemctl clean --what=state ecr-swarm-login.timer 2>/dev/null || true
	@# Wherever `make install PREFIX=` put it: its unit says so.
	script=$$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$(UNIT_FOLDER)/ecr-swarm-login.service"); \
	    rm -f "$(DESTDIR)$(PREFIX)/bin/ecr_swarm_login.py" $${script:+"$(DESTDIR)$$script"} \
	    $(addprefix "$(UNIT_FOLDER)"/,$(UNITS))
	@test -n "$(DESTDIR)" || echo "These stay: docker's logins in /root/.docker, /etc/default/ecr-swarm-login, and drop-ins of yours"
	@$(IF_BOOTED) systemctl daemon-reload

clean:  ## remove what these targets made here
	rm -rf .venv .cache .matrix .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/sh:
	$(PYTHON) -m venv .venv
	@$(PIP) 'sh<3' $(OR_SAY_WHY)
	touch $@

.venv/ready: tests/requirements.txt .venv/sh
	@$(PIP) -r tests/requirements.txt $(OR_SAY_WHY)
	touch $@

.venv/mutants: .venv/ready
	@$(PIP) 'mutmut==3.*' $(OR_SAY_WHY)
	touch $@

# Another minor version of ruff formats in another way.
.venv/lint: .venv/ready Makefile
	$(PIP) 'ruff==0.17.*' mypy radon vermin
	touch $@

.PHONY: help demo test matrix fresh checksums lint mutants e2e e2e-systemd walk bench install uninstall remove clean
