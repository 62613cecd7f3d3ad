package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"
)

// TestSampleConfig: the configuration that is installed says nothing, and has every key, each
// as it is by default.
func TestSampleConfig(t *testing.T) {
	clean(t)
	sample, err := os.ReadFile("../share/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile(`(?m)^#([a-z].*|  - .*)$`).ReplaceAll(sample, []byte("$1"))
	loaded := map[string]Settings{}
	for name, data := range map[string][]byte{"none": nil, "sample": sample, "said": said} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		app := &App{Out: os.Stdout, Err: os.Stderr}
		root := app.newRootCmd()
		root.SetContext(t.Context())
		if err := root.PersistentFlags().Set("config", path); err != nil {
			t.Fatal(err)
		}
		if err := app.load(root); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		loaded[name] = app.settings
		for _, s := range append(settings, setting{key: "flavors"}) {
			if in := app.v.InConfig(s.key); in != (name == "said") {
				t.Errorf("%s: %s is set: %v", name, s.key, in)
			}
		}
	}
	if n := len(loaded["said"].Flavors); n != 1 {
		t.Errorf("there are %d flavors", n)
	}
	of := loaded["said"]
	of.Flavors = nil
	for name, got := range map[string]Settings{"sample": loaded["sample"], "said": of} {
		if want := loaded["none"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s\nand without: %s", name, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
		}
	}
}
