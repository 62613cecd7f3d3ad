package state

import (
	"errors"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

func TestParseRestart(t *testing.T) {
	for text, want := range map[string]Restart{
		"": {}, "no": {}, "always": {When: RestartAlways}, "on-failure": {When: RestartOnFailure}, "on-failure:3": {When: RestartOnFailure, Most: 3},
	} {
		got, err := ParseRestart(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if back, err := ParseRestart(got.String()); err != nil || back != want {
			t.Errorf("%q is written as %q", text, got)
		}
	}
	for _, text := range []string{"never", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:03", "on-failure:x", "always:3", "no:1", ":", "on-failure:1:2", "Always", "unless-stopped"} {
		if got, err := ParseRestart(text); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}
