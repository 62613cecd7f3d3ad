package cmd

import (
	"math"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

var volumes = kind[volume.Volume]{
	name: "volume", list: Store.Volumes, find: Store.Volume, remove: Store.DeleteVolume,
	called: func(v volume.Volume) (name, id string) { return v.Name, v.ID },
	record: func(v volume.Volume) record {
		return record{{"id", v.ID}, {"name", v.Name}, {"description", v.Description}, {"status", v.Status}, {"size", v.Size}, {"bootable", v.Bootable},
			{"readonly", v.ReadOnly}, {"multiattach", v.Multiattach}, {"encrypted", v.Encrypted}, {"volume_type", v.Type}, {"image_id", v.ImageID},
			{"snapshot_id", v.SnapshotID}, {"source_volid", v.SourceID}, {"metadata", v.Metadata}, {"attachments", v.Attachments}, {"created_at", v.CreatedAt},
			{"bytes", report.Bytes(v.Bytes())}, {"managed", managed(v)}, {"pool", v.Pool}}
	},
	columns: []string{"ID", "Name", "Status", "Size", "Bootable", "Attached to", "Managed"},
	units:   map[string]string{"Size": "GiB"},
	facts: func(v volume.Volume) facts {
		f := facts{name: v.Name, status: v.Status, properties: v.Metadata, hosts: []string{}}
		for _, at := range v.Attachments {
			f.hosts = append(f.hosts, at.Host, at.HostID)
		}
		return f
	},
	row: func(v volume.Volume) []any {
		var to []string
		for _, at := range v.Attachments {
			to = append(to, at.InstanceID)
		}
		var device any
		if v.Managed != nil {
			device = v.Managed.Path
		}
		return []any{v.ID, v.Name, v.Status, gibs(v), v.Bootable, to, device}
	},
}

// managed is the device that a volume is; nil: the store made it.
func managed(v volume.Volume) any {
	if v.Managed == nil {
		return nil
	}
	return v.Managed
}

// gibs is a volume's size in GiB, with two digits of what is not whole.
func gibs(v volume.Volume) any {
	if v.Managed == nil || v.Bytes()%(1<<30) == 0 {
		return v.Size
	}
	return math.Round(float64(v.Bytes())/(1<<30)*100) / 100
}

func (a *App) newVolumeCmd() *cobra.Command {
	return newKindCmd(a, volumes, a.newVolumeCreateCmd(), a.newVolumeExtendCmd(), a.newVolumeSetCmd(), a.newVolumeAttachCmd(), a.newVolumeDetachCmd(), a.newVolumeReleaseCmd(), a.newVolumeExportCmd(), a.newVolumeTrimCmd(), a.newVolumeManageCmd(), a.newVolumeUnmanageCmd())
}
