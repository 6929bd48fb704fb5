"""A drill's verdicts as CI servers read them."""

import xml.etree.ElementTree as ET

from pipeline.core.printable import printable_lines
from pipeline.drill.results import DrillReport, DrillResult


def junit_xml(report: DrillReport) -> bytes:
    """Return the verdicts as JUnit XML, as CI servers read it: one test case a drill."""
    failed = sum(not result.passed and not _left_out(result) for result in report.results)
    skipped = sum(bool(_left_out(result)) for result in report.results)
    suite = ET.Element(
        "testsuite",
        name=f"drill {report.model}",
        tests=str(len(report.results)),
        failures=str(failed),
        errors=str(skipped),
        skipped="0",
        timestamp=report.started_at.removesuffix("Z"),
        time=f"{sum(map(_seconds, report.results)):.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"world": report.world, "made_by": report.made_by, **report.machine}
    facts |= {f"{role}_bundle_id": bundle_id for role, bundle_id in report.bundles.items()}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=_text(name), value=_text(value))
    for result in report.results:
        _case(suite, report, result)
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ET.Element, report: DrillReport, result: DrillResult) -> None:
    place = f"{report.model}.{report.world}"
    case = ET.SubElement(suite, "testcase", classname=place, name=result.name, time=f"{_seconds(result):.3f}")
    if not result.passed:
        # What could not be played here is no pass and no finding about the pair: an error of the surroundings.
        kind = "error" if _left_out(result) else "failure"
        problem = ET.SubElement(case, kind, message=_text("; ".join(result.misses)), type="objective")
        problem.text = _text("\n".join(result.misses))
    ET.SubElement(case, "system-out").text = _text(f"{result.text}\n---- found\n{result.shown.transcript}\n")


def _left_out(result: DrillResult) -> str:
    return result.shown.measures.left_out


def _seconds(result: DrillResult) -> float:
    return result.script.load.seconds * len(result.repeats)


def _text(text: str) -> str:
    """Spell out what XML cannot hold."""
    return printable_lines(text)
