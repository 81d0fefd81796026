"""A reader finds the tests of a module by its path: `certmond/a/b.py` has `tests/a/test_b.py`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    str(path.relative_to(ROOT / "certmond").with_suffix(""))
    for path in (ROOT / "certmond").rglob("*.py")
    if not path.name.startswith("__")
}

EXEMPT: Mapping[str, tuple[str, list[str]]] = {
    "tests/cli/test_step_handover.py": ("publishes the report that a command reads", ["cli/acting_process_report"]),
    "tests/cli/test_pki_init.py": ("runs `certmond init`", ["renewal/bootstrap"]),
    "tests/cli/test_main.py": (
        "runs the verbs on a node, and compares the documents and tables that they print",
        ["cli/options", "cli/stdio", "errors", "expose/documents/status", "expose/documents/status_table"],
    ),
    "tests/cli/root_ca/test_inspection.py": (
        "runs the verbs of `root-ca`, and compares what they print",
        ["cli/root_ca/stage", "expose/documents/root_ca"],
    ),
    "tests/cli/distribution_ca/test_rotate.py": (
        "runs the verbs of `root-ca` on nodes of k3s",
        ["cli/distribution_ca/command_options", "cli/distribution_ca/show", "cli/distribution_ca/stage"],
    ),
    "tests/cluster/test_canaries.py": (
        "tests the checks of a rotation together: they share one frame and one stand-in",
        [
            "cluster/rotation_checks/cluster_info",
            "cluster/rotation_checks/check",
            "cluster/rotation_checks/signer",
            "cluster/rotation_checks/service_account_token_issuance",
            "cluster/rotation_checks/root_ca_configmaps",
        ],
    ),
    "tests/cluster/test_cluster_reader.py": (
        "is beside the stand-in of the API that it needs",
        ["controllers/cluster_objects/cluster_certificate_reader"],
    ),
    "tests/cluster/test_conducted_node.py": (
        "runs a whole node beside the API, as its configuration says",
        ["cluster/mutual_authentication_check", "controllers/restart_lock_choice"],
    ),
    "tests/cluster/test_rotation_coordinator.py": (
        "leads rotations of several nodes through the API",
        ["cluster/node_reports", "cluster/rotation_checks/phase_checks"],
    ),
    "tests/cluster/test_csr_signer.py": (
        "signs through a real HTTP API",
        ["cluster/client", "cluster/api_access", "cluster/csr_api"],
    ),
    "tests/cluster/test_external_ca.py": (
        "runs a cluster without the key of its CA beside the API",
        ["controllers/rotation_authority"],
    ),
    "tests/cluster/test_lease_lock.py": ("takes the Lease through the API", ["cluster/lease_api"]),
    "tests/cluster/test_certificate_listing.py": ("lists objects of each kind", ["cluster/ca_bundle_kinds"]),
    "tests/cluster/test_publication.py": (
        "is beside the stand-in of the API that it needs",
        ["controllers/pod_trust_check"],
    ),
    "tests/cluster/test_record.py": (
        "reads and writes the record through the API",
        ["cluster/record_api", "cluster/record_rules"],
    ),
    "tests/cluster/test_serving_request_listing.py": (
        "makes passes of a node beside the stand-in of the API",
        ["controllers/cluster_objects/serving_request_check"],
    ),
    "tests/cluster/test_stale_workloads.py": ("restarts workloads through the API", ["cluster/workload_rollout"]),
    "tests/config/test_parser.py": (
        "parses whole configurations: each message has a file and a line",
        ["config/loader", "config/validation_messages", "config/rules", "config/source_files", "config/yaml_source"],
    ),
    "tests/controllers/test_restart.py": (
        "restarts services of each kind",
        ["controllers/restart_observation", "restart/act"],
    ),
    "tests/controllers/test_rotation.py": (
        "carries rotations out, by the daemon and by `root-ca rotate`",
        ["cli/root_ca/rotate", "controllers/coordinator_interface"],
    ),
    "tests/controllers/test_rotation_state.py": (
        "reads the state of rotations, with the findings about it",
        ["controllers/rotation_findings"],
    ),
    "tests/daemon/test_enforcer.py": (
        "plans derived files on whole nodes",
        ["daemon/enforce_planner", "daemon/acting_controllers", "renewal/derived_file_holds"],
    ),
    "tests/daemon/test_loop.py": (
        "runs the daemon as a process",
        [
            "daemon/file_changes",
            "daemon/python_gc",
            "daemon/reconciler",
            "daemon/runtime_files",
            "daemon/runtime_lock",
        ],
    ),
    "tests/expose/http/test_access_control.py": ("speaks TLS with the server", ["expose/http/tls"]),
    "tests/expose/http/test_server.py": (
        "speaks HTTP with the server",
        [
            "expose/http/access_control_interface",
            "expose/http/connection_limits",
            "expose/http/heartbeat_check",
            "expose/http/routes",
        ],
    ),
    "tests/expose/metrics/test_cluster_certificate_metrics.py": (
        "compares what is exported about the cluster",
        ["expose/documents/cluster_certificates_document"],
    ),
    "tests/expose/metrics/test_exposition.py": (
        "parses what is exported",
        ["expose/documents/status_reader", "expose/metrics/own_metrics", "expose/metrics/label_escapes"],
    ),
    "tests/expose/page/test_render.py": (
        "reads the whole page",
        [
            "expose/documents/remaining_lifetime",
            "expose/page/certificate_tree",
            "expose/page/html",
            "expose/page/model",
        ],
    ),
    "tests/files/test_cache.py": (
        "reads files that change",
        ["files/cache_entry", "files/consistent_read", "files/resolved_directory_cache"],
    ),
    "tests/files/references/test_uncataloged_file_observer.py": (
        "observes the files that a node names",
        ["files/references/component_references", "files/references/component_sources", "files/references/flag_source"],
    ),
    "tests/files/test_catalog_observer.py": (
        "observes files of every kind",
        ["files/catalog_file_reader", "files/kubeconfig_observer", "files/owner_names"],
    ),
    "tests/files/test_directory_watch.py": ("watches directories below mount points", ["files/mount_table"]),
    "tests/files/test_kubeconfig_copies.py": (
        "compares copies of kubeconfigs on a node",
        ["formats/kubeconfig_copy"],
    ),
    "tests/files/test_reference_permissions.py": (
        "resolves the paths that another user controls",
        ["files/path_resolution", "formats/kubeconfig_certificates"],
    ),
    "tests/notify/test_hooks.py": ("runs hooks", ["notify/hook_input", "notify/hook_worker"]),
    "tests/pki/assessment/test_assess.py": (
        "assesses the values",
        ["pki/assessment/trust_anchors", "pki/catalog/observation"],
    ),
    "tests/pki/assessment/test_certificate_rules.py": (
        "tests the rules together",
        ["pki/assessment/file_rules", "pki/assessment/rule_input", "pki/assessment/validity_rules"],
    ),
    "tests/pki/assessment/test_second_renewers.py": (
        "assesses other programs that renew",
        ["pki/catalog/other_renewer_spec"],
    ),
    "tests/pki/catalog/test_entries.py": ("parses entries with fields of each type", ["pki/catalog/field_types"]),
    "tests/pki/go/test_certificate.py": (
        "parses certificates as Go does",
        ["pki/go/distinguished_names", "pki/x509/encoding_faults"],
    ),
    "tests/pki/go/test_extensions.py": ("parses extensions as Go does", ["pki/go/name_constraints"]),
    "tests/pki/planning/test_bootstrap.py": ("plans the steps of `init`", ["pki/planning/bootstrap_steps"]),
    "tests/pki/planning/test_renewals.py": (
        "plans renewals, with the reasons why one waits or cannot be done",
        [
            "pki/planning/renewal_obstacles",
            "pki/planning/planner_inputs",
            "pki/planning/renewal_holds",
            "pki/planning/steps",
        ],
    ),
    "tests/pki/rotation/test_expected_downtime.py": (
        "reads the document of a preview",
        ["expose/documents/rotation_preview"],
    ),
    "tests/pki/rotation/test_planner.py": (
        "plans the phases in which leaves are awaited",
        ["pki/rotation/awaited_leaves", "pki/rotation/trust_anchor_state", "pki/rotation/phase_conditions"],
    ),
    "tests/pki/services/test_restart_state_machine.py": (
        "moves episodes through their stages",
        ["pki/services/restart_episode"],
    ),
    "tests/pki/services/test_staleness.py": ("compares the values", ["pki/services/service_observation"]),
    "tests/pki/test_go_keys.py": (
        "compares all that concerns keys with Go",
        ["pki/go/private_key", "pki/go/public_key", "pki/go/signature_algorithm"],
    ),
    "tests/pki/x509/test_certificate_file_parser.py": ("parses files of PEM blocks", ["pki/x509/pem"]),
    "tests/renewal/test_restoration.py": (
        "restores generations of the archive",
        ["cli/archive", "renewal/archive_generation_check", "renewal/archived_pair_check"],
    ),
    "tests/restart/test_static_pod_stop.py": (
        "waits until the listeners of a pod are closed",
        ["services/listener_shutdown_probe"],
    ),
    "tests/services/test_service_observer.py": (
        "observes the subjects, also in the thread",
        ["services/observed_subjects", "services/observer_thread"],
    ),
    "tests/services/test_systemd_client.py": ("asks systemd over D-Bus", ["services/dbus"]),
    "tests/test_caution.py": ("reads the trail of renewals that fail", ["notify/audit", "state/append_only_file"]),
    "tests/test_commands_beside_the_daemon.py": ("runs commands beside a daemon", ["controllers/watched_state_files"]),
    "tests/test_demo.py": ("runs `certmond demo`", ["demo/node", "demo/certmond_processes", "demo/walkthrough"]),
    "tests/test_distributions.py": ("reads nodes of every distribution", ["discovery/distribution"]),
    "tests/test_next_event.py": (
        "compares what plan, forecast and the other verbs print",
        ["cli/plan", "expose/documents/forecast_table"],
    ),
    "tests/test_pairs.py": ("signs with every signer", ["signers/protocol"]),
    "tests/test_renewal.py": (
        "renews on real files, killed anywhere",
        ["cli/renew", "controllers/executor", "controllers/signer_choice"],
    ),
    "tests/test_csr_renewal.py": ("waits for a signer that answers later", ["state/pending_requests"]),
    "tests/test_repairs.py": (
        "repairs damaged files",
        ["expose/documents/plan", "renewal/new_files"],
    ),
    "tests/test_stolen_keys.py": ("renews beside files that another user can write", ["files/key_destination_check"]),
    "tests/test_unprivileged_users.py": ("writes where another user owns a symlink", ["cli/output_file"]),
    "tests/transaction/test_commit.py": (
        "kills a transaction at each of its calls, and recovers it",
        [
            "transaction/dirfd",
            "transaction/journal",
            "transaction/operations",
            "transaction/recovery",
            "transaction/temp_file",
        ],
    ),
}
"""Modules whose behavior is tested in another one: the test module that executes them, how it does so, and the
modules.
"""


def mirror(module: str) -> str:
    """Return the test module of `module`, such as tests/a/test_b.py of a/b."""
    directory, slash, name = module.rpartition("/")
    return f"tests/{directory}{slash}test_{name}.py"


def test_a_module_has_a_test_module_of_its_name() -> None:
    """A module has a test module at the path that mirrors its own, or EXEMPT names the one that executes it: once, and
    only while it is needed.
    """
    exempt = [module for _, modules in EXEMPT.values() for module in modules]
    without = {module for module in MODULES if not (ROOT / mirror(module)).exists()}
    assert not [f"write {mirror(module)}" for module in sorted(without.difference(exempt))]
    assert not [f"exempt without need: {module}" for module in sorted(set(exempt) - without)]
    assert len(exempt) == len(set(exempt))


@pytest.mark.parametrize("path", EXEMPT)
def test_an_exemption_names_a_test_module(path: str) -> None:
    """The test module of an exemption exists."""
    assert (ROOT / path).is_file()


def test_no_folder_has_more_than_20_modules_and_no_module_more_than_350_lines() -> None:
    """A newcomer finds a module in its folder, and reads a module at once."""
    modules = [path for path in (ROOT / "certmond").rglob("*.py") if path.name != "__init__.py"]
    folders = Counter(path.parent for path in modules)
    assert {str(folder) for folder, count in folders.items() if count > 20} == set()
    assert {str(path) for path in modules if path.read_bytes().count(b"\n") > 350} == set()


@pytest.mark.long
def test_make_test_touches_every_area() -> None:
    """In each folder of tests, at least one test is not long."""
    quick = Counter[Path]()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text())
        functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name[:5] == "test_"]
        is_long = any("mark.long" in ast.unparse(each) for each in tree.body if isinstance(each, ast.Assign))
        count = (
            0
            if is_long
            else sum(not any("mark.long" in ast.unparse(mark) for mark in each.decorator_list) for each in functions)
        )
        quick[path.parent] += count
    assert not [str(folder) for folder, count in quick.items() if not count]
