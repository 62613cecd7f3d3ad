//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLayouts holds that each command of the table in docs/images.md is one that a script boots
// with, but for sizes and what becomes of the volume.
func TestLayouts(t *testing.T) {
	doc, err := os.ReadFile("../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	scripts := ""
	for _, name := range []string{"image-layouts.txtar", "image-subvolumes.txtar"} {
		script, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		scripts += string(script)
	}
	rows := regexp.MustCompile("(?m)^\\|.*`source=image,id=([^,]*),dest=volume,size=[0-9]+,bootindex=0([^`]*)` \\|$").FindAllStringSubmatch(string(doc), -1)
	if len(rows) < 10 {
		t.Fatalf("the table has %d rows with a command", len(rows))
	}
	for _, row := range rows {
		boot := "\nlxcboot boot --flavor m1.tiny --nic none --block-device source=image,id=" + row[1] + ",dest=volume,size=1,bootindex=0,shutdown=remove" + row[2] + " $N"
		if !strings.Contains(scripts, boot) && !strings.Contains(scripts, strings.Replace(boot, "--nic none", "--nic none --privileged", 1)) {
			t.Errorf("no script boots %s so:%s", row[1], boot)
		}
	}
}
