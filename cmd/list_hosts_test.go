package cmd

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// TestClaimedBy: an instance of several volumes is listed once, with when it had the first;
// one that two hosts are noted to have is listed with each.
func TestClaimedBy(t *testing.T) {
	early := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	of := func(instance, name, host string, since time.Time) volume.Attachment {
		return volume.Attachment{InstanceID: instance, InstanceName: name, Host: host, HostID: "id-of-" + host, Since: since}
	}
	var got []string
	for _, c := range claimedBy([]volume.Volume{
		{ID: "v1", Attachments: []volume.Attachment{of("i1", "web1", "n1", early.Add(time.Hour))}},
		{ID: "v2", Attachments: []volume.Attachment{of("i1", "web1", "n1", early), of("i1", "web1", "n2", early)}},
		{ID: "v3", Attachments: []volume.Attachment{{}}}, // another program's
		{ID: "v4", Attachments: []volume.Attachment{of("i0", "", "n1", time.Time{})}},
		{ID: "v5", Attachments: []volume.Attachment{of("i2", "db1", "n3", early)}},
		{ID: "v6"},
	}) {
		since := ""
		if !c.Since.IsZero() {
			since = c.Since.Format(time.RFC3339)
		}
		line := c.InstanceID + " " + c.InstanceName + " " + c.Host + " " + since
		for _, v := range c.volumes {
			line += " " + v
		}
		got = append(got, line)
	}
	want := []string{"i0  n1  v4", "i2 db1 n3 2026-01-02T03:04:05Z v5", "i1 web1 n1 2026-01-02T03:04:05Z v1 v2", "i1 web1 n2 2026-01-02T03:04:05Z v2"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
