package cmd

import (
	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/report"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

var images = kind[volume.Image]{
	name: "image", list: Store.Images, find: Store.Image, remove: Store.DeleteImage,
	called: func(i volume.Image) (name, id string) { return i.Name, i.ID },
	record: func(i volume.Image) record {
		return record{{"id", i.ID}, {"name", i.Name}, {"status", i.Status}, {"disk_format", i.DiskFormat}, {"size", report.Bytes(i.Size)}, {"virtual_size", report.Bytes(i.VirtualSize)}, {"cached", report.Bytes(i.Cached)},
			{"min_disk", i.MinDisk}, {"min_ram", i.MinRAM}, {"checksum", i.Checksum}, {"properties", i.Properties}, {"created_at", i.CreatedAt}}
	},
	columns: []string{"ID", "Name", "Status", "Disk Format", "Size", "Cached", "Created"},
	row: func(i volume.Image) []any {
		return []any{i.ID, i.Name, i.Status, i.DiskFormat, report.Bytes(i.Size), report.Bytes(i.Cached), i.CreatedAt}
	},
	facts: func(i volume.Image) facts { return facts{name: i.Name, status: i.Status, properties: i.Properties} },
}

func (a *App) newImageCmd() *cobra.Command {
	return newKindCmd(a, images, a.newImageImportCmd(), a.newImageCreateCmd(), a.newImageSetCmd(), a.newImageSaveCmd(), a.newImageCacheCmd())
}
