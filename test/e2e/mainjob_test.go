//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMainJob runs the commands of README with each kind of image that has a path
// of its own through the code.
func TestMainJob(t *testing.T) {
	for _, options := range []string{
		"", // raw, a filesystem on the whole device
		"--partitioned mbr",
		"--partitioned gpt",
		"--format qcow2",
		"--format qcow2 --partitioned mbr",
		"--format qcow2 --partitioned gpt --fs xfs",
		"--format vmdk --fs btrfs",
		"--format vhdx --fs ext2",
		"--format vdi --fs ext3",
	} {
		name := strings.Trim(strings.NewReplacer("--", "", " ", "-").Replace(options), "-")
		if name == "" {
			name = "raw"
		}
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(work, "m-"+name)
			if err := os.Mkdir(root, 0o711); err != nil {
				t.Fatal(err)
			}
			runScripts(t, testscript.Params{
				Files:               []string{"testdata/mainjob/mainjob.txtar"},
				WorkdirRoot:         root,
				RequireExplicitExec: true,
				Cmds:                commands,
				Setup: func(env *testscript.Env) error {
					env.Setenv("IMAGE_OPTIONS", options)
					if err := setupNamed(env, "m-"+name); err != nil {
						return err
					}
					env.Setenv("LXCBOOT_RUN_DIR", "") // where lxcboot mounts by itself
					return nil
				},
			})
		})
	}
}
