// An init that hears the first request to power off and comes to nothing with it, as
// systemd may while it still loads its units.
#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t heard;

static void hear(int sig)
{
	(void)sig;
	heard++;
}

int main(void)
{
	signal(SIGRTMIN + 4, hear);
	while (heard < 2)
		pause();
	return 0;
}
