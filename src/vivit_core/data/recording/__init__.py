"""The recording file: one HDF5 file a recording. docs/design.md lists its fields."""

from vivit_core.data.recording.format import RecordingInfo as RecordingInfo
from vivit_core.data.recording.format import Trials as Trials
from vivit_core.data.recording.reader import Recording as Recording
from vivit_core.data.recording.validate import check_recording as check_recording
from vivit_core.data.recording.validate import validate_recording as validate_recording
from vivit_core.data.recording.writer import write_recording as write_recording
