// Opens a page in light and dark, on a screen and on a telephone, and lets axe-core judge it. Arguments: the browser, the page,
// the file for the screenshot, and a folder for screenshots of everything, which may be empty.
const { chromium } = require('playwright-core');
const { default: AxeBuilder } = require('@axe-core/playwright');

const [browser, page, picture, folder] = process.argv.slice(2);
const SERIOUS = new Set(['serious', 'critical']);

(async () => {
    const running = await chromium.launch({ executablePath: browser, args: ['--no-sandbox', '--disable-lcd-text'] });
    let serious = 0;
    for (const colorScheme of ['light', 'dark']) {
        for (const [device, width, height] of [['screen', 900, 980], ['telephone', 390, 844]]) {
            const context = await running.newContext({ colorScheme, viewport: { width, height } });
            const tab = await context.newPage();
            // The page must load nothing: whatever it asks for is a fault.
            tab.on('request', (request) => {
                if (!request.url().startsWith('file:')) {
                    console.error(`look: the page asks for ${request.url()}`);
                    serious += 1;
                }
            });
            await tab.goto(`file://${page}`);
            if (colorScheme === 'light' && device === 'screen') await tab.screenshot({ path: picture });
            // Closed tables are judged as well.
            await tab.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
            const wide = await tab.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
            if (wide > 0) {
                console.error(`look: ${colorScheme}, ${device}: the page is ${wide} px wider than the window`);
                serious += 1;
            }
            if (folder) await tab.screenshot({ path: `${folder}/${colorScheme}-${device}.png`, fullPage: true });
            const { violations, passes } = await new AxeBuilder({ page: tab }).analyze();
            console.log(`look: ${colorScheme}, ${device}: ${passes.length} rules pass, ${violations.length} do not`);
            for (const violation of violations) {
                console.error(`  ${violation.impact}: ${violation.id}: ${violation.help}`);
                violation.nodes.slice(0, 3).forEach((node) => console.error(`    ${node.html.slice(0, 160)}`));
                if (SERIOUS.has(violation.impact)) serious += 1;
            }
            await context.close();
        }
    }
    await running.close();
    process.exit(serious > 0 ? 1 : 0);
})();
