"""Modality packs: plugins of role data that others stand on, selected with them; and options that move from a plugin to its pack."""

import pytest

from ddcore import Plugin
from ddcore.composing.discovery import packs_among
from ddcore.composing.options import at_their_place, resolve, unknown
from ddcore.composing.plan import students_of
from ddcore.composing.selection import select
from ddcore.errors import OptionError, PluginError
from ddcore.kit.contract import examine

MODALITY = 'modality = frozenset({"sounds"})\n        '
PACK = f"""{MODALITY}role = "data"
        datasets, networks, probe_file = ("tones",), ("ear", "horn"), PROBE
        width: int = option(3, help="of ears", unit="features")

        @hookimpl
        def ddcore_data(self, name: str) -> object: return None

        @hookimpl
        def ddcore_network(self, name: str) -> object: return None
        """
METHOD = f"""{MODALITY}role, packs, steps = "matcher", ("sounds",), 0
        moved = {{"width": "sounds.width"}}

        @hookimpl
        def ddcore_learn(self) -> object: return None
        """


@pytest.fixture
def sounds(site):
    """A pack, and two methods on it."""
    site.plugin("sounds", PACK.replace("PROBE", "None"))
    site.plugin("hum", METHOD)
    site.plugin("buzz", METHOD)
    return site


def test_a_pack_is_selected_with_the_plugin_that_stands_on_it_behind_all_and_once(sounds):
    for words, names in (
        (["--plugin", "hum"], ["hum", "sounds"]),
        (["--plugin", "hum", "--plugin", "buzz"], ["hum", "buzz", "sounds"]),
        (["--plugin", "sounds", "--plugin", "hum"], ["sounds", "hum"]),
        (["--plugin", "ddcore-sounds/sounds", "--plugin", "ddcore-hum/hum"], ["sounds", "hum"]),
    ):
        found = select([*words, "--preset", "none"], {})
        assert [*found.classes] == [*found.offers] == names
        assert packs_among(found.classes) == ["sounds"]
    assert packs_among(select(["--plugin", "sounds"], {}).classes) == []


def test_packs_may_stand_on_packs(sounds):
    sounds.plugin("music", PACK.replace("PROBE", "None").replace("datasets", 'packs = ("sounds",)\n        datasets'))
    sounds.plugin("song", METHOD.replace('("sounds",)', '("music",)'))
    assert [*select(["--plugin", "song"], {}).classes] == ["song", "music", "sounds"]


def test_a_pack_that_is_not_there_or_none_is_told_with_who_needs_it(site):
    site.plugin("hum", METHOD)
    with pytest.raises(
        PluginError, match="plugin 'hum' stands on the modality pack 'sounds': no plugin named 'sounds' is installed"
    ):
        select(["--plugin", "hum"], {})
    assert [*select(["--plugin", "hum"], {}, strict=False).classes] == ["hum"]
    site.plugin("sounds", METHOD.replace('("sounds",)', "()"))
    with pytest.raises(PluginError, match="'hum' names 'sounds' among its packs, which has role 'matcher'"):
        select(["--plugin", "hum"], {})


def test_students_are_those_that_the_matcher_names_else_all_that_are_offered(sounds):
    made = {name: cls() for name, cls in select(["--plugin", "hum"], {}).classes.items()}
    assert students_of(made["hum"], made) == ("ear", "horn")

    class Picky(Plugin):
        students = ("horn",)

    assert students_of(Picky(), made) == ("horn",)


def test_an_option_that_has_moved_is_refused_wherever_it_is_given_and_the_new_one_named(sounds, tmp_path):
    groups = select(["--plugin", "hum"], {}).classes
    now = "--hum.width is --sounds.width now: write --sounds.width, [plugin.sounds] width or DDCORE_SOUNDS__WIDTH"
    assert unknown("--hum.width", groups) == now
    file = tmp_path / "c.toml"
    file.write_text("[plugin.hum]\nwidth = 4\n")
    with pytest.raises(OptionError) as caught:
        resolve(groups, command_line={}, environment={}, files=[str(file)])
    assert f"[plugin.hum] has 'width': {now}" in str(caught.value) and "c.toml" in str(caught.value)
    with pytest.raises(OptionError) as caught:
        resolve(groups, command_line={}, environment={"DDCORE_HUM__WIDTH": "4"})
    assert str(caught.value) == f"DDCORE_HUM__WIDTH is set: {now}"
    made = resolve(groups, command_line={"sounds__width": "4"}, environment={})
    assert made.options["sounds"].width == 4


def test_what_was_saved_under_an_old_name_is_read_as_the_new_unless_that_is_there(sounds):
    groups = select(["--plugin", "hum"], {}).classes
    saved = {"hum": {"width": 4, "both": True}}
    assert at_their_place(saved, groups) == {"hum": {"both": True}, "sounds": {"width": 4}}
    assert saved == {"hum": {"width": 4, "both": True}}
    both = {"hum": {"width": 4}, "sounds": {"width": 5}}
    assert at_their_place(both, groups) == {"hum": {}, "sounds": {"width": 5}}


def importing(site, module, body=METHOD):
    """A method that imports a module."""
    site.put("sing", f"\n    import {module}{site.source(body)}")
    (result,) = examine("sing", only=["public"])
    return result


def test_the_kit_lets_a_plugin_import_its_packs_and_no_other_plugin(sounds):
    assert importing(sounds, "fake_ddcore_sounds_sounds").status == "passed"


@pytest.mark.parametrize(
    ("module", "body"), [("hum_hum", METHOD), ("sounds_sounds", METHOD.replace('("sounds",)', "()"))]
)
def test_the_kit_refuses_imports_of_methods_and_of_packs_that_are_not_declared(sounds, module, body):
    found = importing(sounds, f"fake_ddcore_{module}", body)
    name = module.partition("_")[0]
    assert found.status == "failed"
    assert f"imports fake_ddcore_{module} of plugin {name!r}, which is none of its packs" in found.detail


def test_the_kit_wants_the_file_that_a_pack_calls_its_probe(sounds):
    sounds.plugin("music", PACK.replace("PROBE", '"absent.py"'))
    (result,) = examine("music", only=["declarations"])
    assert result.status == "failed" and "probe_file is 'absent.py', and there is no such file" in result.detail


def test_what_works_on_data_of_a_pack_that_nothing_distils_is_skipped_with_the_reason(sounds):
    (result,) = examine("sounds", only=["seed"])
    assert (result.status, result.detail) == ("skipped", "nothing distils sounds")
