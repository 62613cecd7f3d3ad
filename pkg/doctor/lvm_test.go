package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Each host is asked for what LVM itself says of its configuration.
func TestLVM(t *testing.T) {
	checks := slices.DeleteFunc(Host(t.TempDir(), func(string) error { return nil }), func(c Check) bool { return c.Name != "lvm" })
	if len(checks) != 1 {
		t.Fatalf("checks of LVM: %v", checks)
	}
	for config, want := range map[string]string{
		``: Warning,
		`devices { global_filter = [ "a|^/dev/sda|", "r|.*|" ] }`: OK,
		`devices { filter = [ "a/^\/dev\/sda/", "r/.*/" ] }`:      OK,
		`devices { global_filter = "r|.*|" }`:                     OK,
		`devices { global_filter = [ "r|^/dev/sda|" ] }`:          Warning,
		`devices { global_filter = [ "r|.*|", "a|.*|" ] }`:        Warning,
		`devices { use_devicesfile = 1 }`:                         Warning, // a file that is not there
		`devices { global_filter = `:                              Warning,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("LVM_SYSTEM_DIR", dir)
		results, fit := Run(t.Context(), checks)
		if r := results[0]; r.Status != want || !fit || (r.Mend == "") != (want == OK) {
			t.Errorf("with %q: %+v", config, r)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if results, _ := Run(t.Context(), checks); results[0].Status != OK {
		t.Errorf("without LVM: %+v", results[0])
	}
}
