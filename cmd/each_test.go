package cmd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// What several are named for is done side by side; each error is told, in the order in which
// they were named.
func TestEach(t *testing.T) {
	met := make(chan bool)
	err := each([]string{"a", "b", "c"}, func(ref string) error {
		switch ref {
		case "a":
			select {
			case met <- true:
			case <-time.After(30 * time.Second):
				t.Error("b is not begun before a has ended")
			}
		case "b":
			<-met
		}
		return fmt.Errorf("no %s", ref)
	})
	if got := errors.Join(err).Error(); got != "no a\nno b\nno c" {
		t.Errorf("%q", got)
	}
}

// A start by the restart policy has the configuration that the boot had, wherever it is
// started; what only releases has none.
func TestEndedWords(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string][]string{"": {"ended"}, "here.yaml": {"ended", "--again-with", filepath.Join(here, "here.yaml")}} {
		if got := (&App{config: config}).endedWords(); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	}
}
